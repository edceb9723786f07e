"""The criticality paper's Tables 2 to 5 as data, and Kendall's τ on them.

Chatterji, Neyshabur, Sedghi: The intriguing role of module criticality in the generalization of deep networks
(ICLR 2020). A number printed without its point, such as 69e5, is read as 6.9e5: Table 4 has the same network with it.
"""

from __future__ import annotations

from importlib import resources

import pandas as pd

from netopsy.probes.ranking import kendall

MEASURES = ("pfn", "psn", "dti", "nop", "sosp", "pac_bayes", "criticality")
"""Columns of the tables, in the paper's order."""


def published_tables() -> pd.DataFrame:
    """What the paper printed: a row a network and table.

    Columns: `table` (2 to 5), `data`, `network`, `gap` (the generalization error in percent), and the measures.
    """
    return _read("criticality_tables.csv").astype({"data": "string", "network": "string"})


def published_ranking() -> pd.DataFrame:
    """Kendall's τ of each measure with the gap: what the paper printed, and what its own numbers give.

    Columns: `table, measure, printed`; and of the printed numbers `n` (networks), `concordant, discordant, tied` (of
    pairs) and `tau_a`. Two in Table 2 differ from what was printed: `dti`, by one pair; `sosp`, by one of two tied
    pairs.
    """
    tables = published_tables()
    rows = []
    for number, measure, printed in _read("criticality_tau.csv").itertuples(index=False):
        part = tables[tables.table == number]
        count = kendall(part[measure], part.gap)
        tied = count.pairs - count.concordant - count.discordant
        rows.append((number, measure, printed, count.n, count.concordant, count.discordant, tied, count.tau_a))
    columns = ["table", "measure", "printed", "n", "concordant", "discordant", "tied", "tau_a"]
    return pd.DataFrame(rows, columns=columns).astype({"measure": "string"})


def _read(name: str) -> pd.DataFrame:
    with resources.as_file(resources.files("netopsy.studies") / "data" / name) as path:
        return pd.read_csv(path)
