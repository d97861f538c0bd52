"""What the page says around its tables."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["compose"]

HEAD = """\
# Evidence

What the claims about training rest on, measured with NagEdge's own steps by one command; this page is what it wrote:

```bash norun="takes seven minutes of two processors"
uv run python -m tests.evidence --out docs
```

A *pilot*, a first trial on other code, had led to expectations; they stand beside what came out. Scores are accuracy, or R²
(not below 0), in percent, on test rows that nothing was chosen on; ± is the standard deviation over five seeds of weights and
order, brackets are 95 % intervals (bootstrap over seeds). Every learning rate is tuned on the validation rows, each method for
itself, by factors of two, and further where the best one is the first or the last. As in the template of a run file, half an
epoch warms up and the gradient's norm is limited to 5 (to 1 for sentences). All numbers, with every rate that was tried,
are in `docs/evidence/`.
"""

SECTIONS = {
    "optimizers": """\
## Optimizers at equal steps

Three tasks (digit, slant, ink) of 4,000 digits, a CNN of 59,000 parameters without norms, batch 64, 172 steps, a cosine to
zero. Momentum 0.9, 0.97 with a schedule; Adam and NAdam with torch's defaults. "Mean score" is over the three tasks.
A first run had neither warm-up nor a limit to the gradient: SGD 83.2, heavy ball 93.8, Nesterov 91.3, SRSGD 89.5, gradient
restart 92.1, Adam 96.3, NAdam 95.9. Some seeds did not learn at all there at the rates that were best for others.

{table}

![Mean score of each optimizer, a dot a seed](evidence/optimizers.svg)
""",
    "sharing": """\
## One network or three

23,700 rated sentences: where they come from, whether they are kind, how strongly. One network of all tasks against three of
the same size, which take as much compute together when each has a third of the steps (compute 1), and three times as much with
all of them. Three passes over the training rows are "all steps".

{table}

The pilot had polarity at 62.4 % in one network, 53.3 % alone at equal compute and 59.1 % at three times the compute.
""",
    "scales": """\
## Losses of unequal scale

The digits again, with standardised targets, and with targets in units that make the loss of slant ten times, that of ink a
tenth of that ("losses off by ten"). Static weights are the best of eighty random draws on the validation rows (two weights from
0.01 to 100, and a learning rate, which is then tuned like the others'); random weights are drawn anew each step. Weights of 0.1 and 10 would turn the
second column's sum into the first one's. Without warm-up and limit, in a first run, the standardised column had sum 92.3, IMTL-G on features 93.4, on the trunk 32.5, GradNorm 32.3. The pilot had .952 for IMTL-G on features and .881 for the sum.

{table}
""",
    "head": """\
## A convex head

The heads of all three tasks on a frozen trunk, the simulated user's 500 digits as one batch, weight decay 1e-4: convex, and its
optimum is known from Newton steps in float64. Steps until the objective is within 0.001 of it, the best constant learning rate
for each (factors of the square root of two from 0.1 to 0.57, for Adam and NAdam from 0.02 to 0.23, where Adam's best is the last).
No limit to the gradient here. The pilot had 395 with restarts, not reached with constant momentum, 497 with Adam.

{table}

![The objective above its optimum, step by step](evidence/head.svg)
""",
    "cost": """\
## What a step costs

Processor time of a step over that of a plain sum: the CNN of `docs/examples/digits.toml`, three tasks, batch 64, one thread,
all methods taking turns, medians, in brackets the 95 % interval (block bootstrap over rounds).

{table}

LibMTL (Lin & Zhang, JMLR 2023) publishes scores of its methods; no times of their steps were found in its documentation, so none
stand beside these.

### What accumulation saves

Importance-adaptive accumulation with four micro-batches. Head passes are counted by hooks on the heads' gradients.

{savings}
""",
}


def compose(folder: Path) -> str:
    """Return the page from the parts whose numbers lie in a folder."""
    parts = [HEAD]
    for name, text in SECTIONS.items():
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        document = json.loads(path.read_text(encoding="utf-8"))
        table, _, savings = document["text"].partition("\n\n<!-- savings -->\n\n")
        where = document["where"]
        load = "" if where["load"][0] < 2 else f"; others used the machine too (load {where['load'][0]:g})"
        note = (
            f"*{where['date']}, {where['processor']}, Python {where['python']}, torch {where['torch']}, TorchJD"
            f" {where['torchjd']}; took {where['minutes']:g} minutes{load}.*\n"
        )
        parts += [text.format(table=table, savings=savings), note]
    return "\n".join(parts)
