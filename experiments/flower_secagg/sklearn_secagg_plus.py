"""scikit-learn, with Flower's SecAgg+: the coefficients are masked, the number of examples is not."""

from flwr.app import Context
from flwr.client import Client
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.server import ServerConfig
from flwr.server.compat import LegacyContext
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp

from experiments.flower_secagg import digits, regression


def client_fn(context: Context) -> Client:
    """Make this node's client."""
    return regression.Hospital(int(context.node_config["partition-id"])).to_client()


client = ClientApp(client_fn, mods=[secaggplus_mod])
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    rounds = ServerConfig(num_rounds=digits.N_ROUNDS)
    legacy = LegacyContext(context, config=rounds, strategy=regression.strategy())
    workflow = DefaultWorkflow(SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=0.75))
    workflow(grid, legacy)
