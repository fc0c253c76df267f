"""torch, plain: every node's weights and number of examples reach the server in clear."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from experiments.flower_secagg import digits, network

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train the global network on this node's part."""
    model = network.loaded(message.content["arrays"])
    n_examples = network.train(model, int(context.node_config["partition-id"]))
    metrics = MetricRecord({"num-examples": n_examples})
    return Message(
        RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message
    )


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    start = ArrayRecord(network.fresh().state_dict())
    strategy = network.strategy()
    strategy.start(grid, start, num_rounds=digits.N_ROUNDS, evaluate_fn=network.test)
