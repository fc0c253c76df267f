"""torch, with our secure aggregation: the server sees the weighted mean and the sum of the weights."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from experiments.flower_secagg import digits, network
from secure_fed_diffusion.flower_mod import Proposal, SecureAggregation, secure_aggregation_mod

client = ClientApp(mods=[secure_aggregation_mod()])  # for every kind of message, not for training alone
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
    strategy = SecureAggregation(network.strategy(), Proposal(n_rounds=3), run_config=context.run_config)
    strategy.start(grid, start, num_rounds=digits.N_ROUNDS, evaluate_fn=network.test)
