"""torch, with Flower's SecAgg+: it speaks the legacy API alone, so the app's records are translated."""

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import NDArrays, Scalar, ndarrays_to_parameters
from flwr.server import ServerConfig
from flwr.server.compat import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp

from experiments.flower_secagg import digits, network

client = ClientApp()
server = ServerApp()


def named(arrays: NDArrays) -> ArrayRecord:
    """Return legacy parameters, which have no names, under the network's."""
    names = network.fresh().state_dict()
    return ArrayRecord({name: Array(array) for name, array in zip(names, arrays, strict=True)})


@client.train(mods=[secaggplus_mod])
def train(message: Message, context: Context) -> Message:
    """Train the global network on this node's part."""
    model = network.loaded(named(message.content["fitins.parameters"].to_numpy_ndarrays()))
    n_examples = network.train(model, int(context.node_config["partition-id"]))
    trained = ArrayRecord([tensor.numpy() for tensor in model.state_dict().values()])
    content = {
        "fitres.parameters": trained,
        "fitres.num_examples": MetricRecord({"num_examples": n_examples}),
        "fitres.metrics": ConfigRecord(),
        "fitres.status": ConfigRecord({"code": 0, "message": ""}),
    }
    return Message(RecordDict(content), reply_to=message)


def test(server_round: int, arrays: NDArrays, _: dict[str, Scalar]) -> tuple[float, dict[str, Scalar]]:
    """Test the global network and keep it."""
    metrics = network.test(server_round, named(arrays))
    return 0.0, dict(metrics)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    start = [tensor.numpy() for tensor in network.fresh().state_dict().values()]
    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=digits.N_NODES,
        min_available_clients=digits.N_NODES,
        initial_parameters=ndarrays_to_parameters(start),
        evaluate_fn=test,
    )
    legacy = LegacyContext(context, config=ServerConfig(num_rounds=digits.N_ROUNDS), strategy=strategy)
    workflow = DefaultWorkflow(SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=0.75))
    workflow(grid, legacy)
