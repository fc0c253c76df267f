"""scikit-learn, with our secure aggregation: the server sees the weighted mean and the sum of the weights."""

from flwr.app import Context
from flwr.client import Client
from flwr.clientapp import ClientApp
from flwr.server import ServerConfig
from flwr.server.compat import LegacyContext
from flwr.server.workflow import DefaultWorkflow
from flwr.serverapp import Grid, ServerApp

from experiments.flower_secagg import digits, regression
from secure_fed_diffusion.flower_mod import Proposal, SecureAggregationWorkflow, secure_aggregation_mod


def client_fn(context: Context) -> Client:
    """Make this node's client."""
    return regression.Hospital(int(context.node_config["partition-id"])).to_client()


client = ClientApp(client_fn, mods=[secure_aggregation_mod()])
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    rounds = ServerConfig(num_rounds=digits.N_ROUNDS)
    legacy = LegacyContext(context, config=rounds, strategy=regression.strategy())
    workflow = DefaultWorkflow(SecureAggregationWorkflow(Proposal(n_rounds=digits.N_ROUNDS)))
    workflow(grid, legacy)
