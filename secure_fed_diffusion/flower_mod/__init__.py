"""Secure aggregation for any Flower app: a mod for its clients, a wrapper for its server.

Client side, in place of `secaggplus_mod`:

    app = ClientApp(mods=[secure_aggregation_mod()])

Server side, around the app's own strategy, or in place of `SecAggPlusWorkflow`:

    strategy = SecureAggregation(FedAvg(), Proposal(n_rounds=10), run_config=context.run_config)
    strategy.start(grid, arrays, num_rounds=10)
    DefaultWorkflow(fit_workflow=SecureAggregationWorkflow(Proposal(n_rounds=10)))(grid, context)

The strategy sees one reply a round: the weighted mean of the survivors.  The server learns that mean, the
sum of the weights and who took part; from one round, no client's parameters, number of examples or metrics.

Not protected against: what the mean itself says about a member, and what the means and sums of two rounds
say whose members differ by one (add noise, as Flower's local differential privacy mods do, inside this mod;
`weighting="equal"`); a client that lies; an app that somebody else ships; messages that a client's owner lets
pass in clear.
What a SuperNode knows, its host knows: the client's secrets lie in a file that only its user reads.

Source: README.md of `secagg` (the protocol); Flower 1.41 (mods, `Grid`, strategies, workflows).

    >>> from secure_fed_diffusion.flower_mod import Proposal    # doctest: +SKIP
    >>> Proposal(n_rounds=10).params(n_clients=4, dimension=651).threshold    # doctest: +SKIP
    3
"""

from .client import secure_aggregation_mod
from .coordinator import Coordinator
from .exchanges import Exchange, RoundRecord
from .identity import Identity, identity_from_node_config
from .proposal import Proposal
from .server import SecureAggregation, SecureAggregationWorkflow, SecureGrid

__all__ = [
    "Coordinator",
    "Exchange",
    "Identity",
    "Proposal",
    "RoundRecord",
    "SecureAggregation",
    "SecureAggregationWorkflow",
    "SecureGrid",
    "identity_from_node_config",
    "secure_aggregation_mod",
]
