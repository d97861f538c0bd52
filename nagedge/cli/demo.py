"""``nagedge demo``: the whole path on real digits, from data to a model that keeps learning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="A new folder for everything; nagedge-demo, or -2, -3, ... by default."
        ),
    ] = None,
) -> None:
    """Train, export, verify, fine-tune and profile a small multi-task model on real handwritten digits."""
    import dataclasses
    import time

    from nagedge import export, finetune, profile, train, verify
    from nagedge.cli.export import print_files
    from nagedge.cli.finetune import print_finetuning
    from nagedge.cli.output import print_metrics, print_paths, progress_bar
    from nagedge.cli.profile import print_profile
    from nagedge.cli.train import print_epochs, training_bar
    from nagedge.cli.verify import print_agreement, print_comparisons, refuse_disagreement, write_comparisons
    from nagedge.data.mnist import demo_user, write_demo_user
    from nagedge.demo import EPOCHS, LEARNING_RATE, STEPS, TARGET, demo_files, highlights, report_sections
    from nagedge.files import write_file
    from nagedge.profiling.report import write_report
    from nagedge.training.run import RUN_TEMPLATE

    started = time.perf_counter()
    files = demo_files(out)

    _heading("1. Train three tasks on 4,000 handwritten digits")
    write_file(files.run, RUN_TEMPLATE)
    with training_bar() as events:
        checkpoint = train(files.run, out=files.checkpoint, progress=events)
    print_epochs(checkpoint.state.history)
    print_metrics("Test digits", checkpoint.state.test)

    _heading("2. Export inference and the training step to standard ONNX")
    with progress_bar() as bar:
        bundle = export(checkpoint, targets=[TARGET], out=files.bundle, progress=bar)
    print_files(bundle.path)

    _heading(f"3. Verify {STEPS} training steps against PyTorch")
    with progress_bar() as bar:
        comparisons = verify(bundle, steps=STEPS, progress=bar)
    write_comparisons(files.comparisons, comparisons)
    print_comparisons(comparisons)
    refuse_disagreement(files.bundle, comparisons)
    print_agreement(files.bundle, comparisons, STEPS)

    _heading("4. Fine-tune on one user's handwriting with the stock ONNX Runtime")
    write_demo_user(files.user_examples, part="fine_tune")
    write_demo_user(files.user_evaluation, part="evaluation")
    user = demo_user().description
    typer.echo(user)
    with progress_bar() as bar:
        result = finetune(
            bundle,
            files.user_examples,
            evaluation=files.user_evaluation,
            epochs=EPOCHS,
            lr=LEARNING_RATE,
            out=files.tuned,
            progress=bar,
        )
    print_finetuning(result)

    _heading("5. Profile inference and the training step on this machine")
    with progress_bar() as bar:
        measured = profile(bundle, what=("infer", "train"), progress=bar)
    write_file(files.profile, measured.to_json())
    print_profile(measured)

    write_report(
        files.report,
        measured,
        title="NagEdge demo: three tasks on handwritten digits",
        subtitle=f"Trained, exported, verified, fine-tuned and measured on {measured.host.cpu_model}.",
        highlights=highlights(checkpoint, comparisons, result),
        sections=report_sections(checkpoint, comparisons, result, user),
    )
    _heading(f"Done in {time.perf_counter() - started:.0f} s")
    print_paths(
        {field.name.replace("_", " "): getattr(files, field.name) for field in dataclasses.fields(files)}
    )


def _heading(text: str) -> None:
    typer.secho(f"\n{text}\n", bold=True)
