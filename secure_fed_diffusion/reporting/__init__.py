"""What a person sees: the progress of a run, its report, and an experiment's figure.

Nothing here measures, charges or protects anything: it shows what the run wrote down, and leaves
out what is private (training losses, clip counts, class counts never reach this package).

    from secure_fed_diffusion.reporting import RunProgress, epsilon_table, write_report
    path = write_report(Path("runs/first"))          # runs/first/report.html
"""

from secure_fed_diffusion.reporting.console import RunProgress, epsilon_table
from secure_fed_diffusion.reporting.html import write_report
from secure_fed_diffusion.reporting.tradeoff import plot_results

__all__ = ["RunProgress", "epsilon_table", "plot_results", "write_report"]
