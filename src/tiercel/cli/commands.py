"""The commands. Each imports what it needs when it runs, so that help is quick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tiercel.cli import options
from tiercel.cli.terminal import TerminalProgress, print_json
from tiercel.errors import ConfigurationError, ProviderError

if TYPE_CHECKING:
    from tiercel.flows.answering import AnswerCounts

__all__ = ["answer", "import_", "label", "pilot", "workloads"]

Traffic = Annotated[list[Path], typer.Argument(help="Files of traffic: .jsonl, .json or .csv, also with .gz.")]
BundleFolder = Annotated[Path, typer.Argument(help="A bundle, or the folder of the pilot that wrote it.")]


def import_(
    traffic: Traffic,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .jsonl or .jsonl.gz.")],
    rejects: Annotated[Path | None, typer.Option(help="File for rows that can't be used; beside the output.")] = None,
    log_format: options.Format = "auto",
    csv_input: options.CsvInput = None,
    csv_answer: options.CsvAnswer = None,
    csv_system: options.CsvSystem = None,
    csv_reference: options.CsvReference = None,
    csv_id: options.CsvId = None,
    csv_model: options.CsvModel = None,
    csv_created: options.CsvCreated = None,
    json_output: options.JsonOutput = False,
) -> None:
    """Turn logs of LiteLLM, Langfuse, OpenAI or CSV into traffic that the other commands read.

    Exact duplicates are dropped; rows that can't be used go to a reject file with line and reason.
    """
    from tiercel.flows.conversion import convert

    columns = options.csv_columns(csv_input, csv_answer, csv_system, csv_reference, csv_id, csv_model, csv_created)
    with TerminalProgress() as progress:
        counts = convert(traffic, output, progress, rejects=rejects, format_name=log_format, columns=columns)
    if json_output:
        print_json(counts)
        return
    print(f"{counts.kept:,} rows written to {output}")
    print(f"{counts.rejected:,} rejected, {counts.duplicates:,} exact duplicates dropped, {counts.read:,} read")
    for reason, times in counts.reasons.most_common(5):
        print(f"  rejected {times:,}: {reason}")
    print(f"next: tiercel workloads {output}")


def workloads(
    traffic: Traffic,
    frontier: options.Frontier = None,
    prices: options.Prices = None,
    log_format: options.Format = "auto",
    csv_input: options.CsvInput = None,
    csv_answer: options.CsvAnswer = None,
    csv_system: options.CsvSystem = None,
    csv_reference: options.CsvReference = None,
    csv_id: options.CsvId = None,
    csv_model: options.CsvModel = None,
    csv_created: options.CsvCreated = None,
    json_output: options.JsonOutput = False,
) -> None:
    """List the workloads of a log: what each is, what it costs, whether a pilot makes sense."""
    from tiercel.cli.tables import workload_table
    from tiercel.flows.assess import assess
    from tiercel.providers.prices import PriceTable

    columns = options.csv_columns(csv_input, csv_answer, csv_system, csv_reference, csv_id, csv_model, csv_created)
    with TerminalProgress() as progress:
        found = assess(
            traffic,
            progress,
            prices=PriceTable(options.price_file(prices)),
            frontier=frontier,
            format_name=log_format,
            columns=columns,
        )
    if json_output:
        print_json(found)
    else:
        workload_table(found, str(traffic[0]))


def pilot(
    traffic: Traffic,
    test: Annotated[Path | None, typer.Option(help="Separate file of test rows; else 15 % are set aside.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for report and bundle.")] = Path("pilot"),
    max_loss: Annotated[
        float, typer.Option(help="Largest loss against the frontier that you allow, over all requests.")
    ] = 0.02,
    confidence: Annotated[float, typer.Option(help="Of the certificate.")] = 0.95,
    students: Annotated[
        str,
        typer.Option(
            help="auto, or rungs with commas between: linear,encoder,micro for labels, tagger,micro for JSON and "
            "calls, micro for SQL and text; slm with --model."
        ),
    ] = "auto",
    task: Annotated[
        str | None,
        typer.Option(help="classification, extraction, function_calling, sql or generation; recognised when left out."),
    ] = None,
    workload: Annotated[str | None, typer.Option(help="Number or fingerprint from `tiercel workloads`.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed on the same machine gives the same bundle.")] = 0,
    frontier: options.Frontier = None,
    prices: options.Prices = None,
    requests_per_day: Annotated[float | None, typer.Option(help="Volume, where the log has no times.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Pretrained encoder: a folder or a name on the hub.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Pretrained language model to prompt and tune (rung slm): a folder or a name on the hub."),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(help="SQLite file or postgresql:// URL on which SQL is run, read-only, to compare its results."),
    ] = None,
    curate: Annotated[
        bool, typer.Option("--curate", help="Leave doubted training rows out where that helps on the gate's rows.")
    ] = False,
    curriculum: Annotated[
        bool,
        typer.Option(
            "--curriculum", help="Also train micro and slm in stages; kept where held-out loss says it helps."
        ),
    ] = False,
    teacher: Annotated[
        Path | None, typer.Option(help="Folder of a local model from whose probabilities micro and slm learn.")
    ] = None,
    distil: Annotated[
        str | None, typer.Option(help="How: answers, logits, on-policy or gold; logits where a teacher is given.")
    ] = None,
    micro_size: Annotated[
        int | None,
        typer.Option(help="Parameters of the rung micro at most; 2,500,000 when left out, fewer for labels."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Of micro and slm as served: q4_0, q4_k_m, q8_0 or f16; the next larger where that one is not served "
            "as it was trained. q8_0 when left out."
        ),
    ] = None,
    distil_divergence: Annotated[
        str | None, typer.Option(help="From the teacher: forward (usual with logits), reverse or jensen-shannon.")
    ] = None,
    distil_weight: Annotated[
        float | None, typer.Option(help="Of the teacher against the answers, up to 1; 0.9 with logits, else 0.5.")
    ] = None,
    distil_temperature: Annotated[
        float | None, typer.Option(help="Flattens what is compared; 2 with logits, 1 on-policy.")
    ] = None,
    gate_samples: Annotated[
        int,
        typer.Option(help="Answers that micro and slm draw beside each one, for the gate; each costs as much."),
    ] = 0,
    threads: Annotated[int | None, typer.Option(help="For training; all cores when left out.")] = None,
    loss: Annotated[
        str, typer.Option(help="What is bounded: exact (whole answers), or field-f1 where answers have fields.")
    ] = "exact",
    segment: Annotated[
        str | None,
        typer.Option(help="Certify each segment by itself: language, label (the student's own) or a key of metadata."),
    ] = None,
    segment_control: Annotated[
        str,
        typer.Option(
            help="bonferroni: every certified segment holds; e-bh: all but a share of 1 - confidence, on average."
        ),
    ] = "bonferroni",
    cluster: Annotated[
        str | None,
        typer.Option(help="Key of metadata whose rows go wrong together; user is looked at when left out."),
    ] = None,
    examples: Annotated[int, typer.Option(help="Requests of each kind to show in the report; 0 for none.")] = 8,
    log_format: options.Format = "auto",
    csv_input: options.CsvInput = None,
    csv_answer: options.CsvAnswer = None,
    csv_system: options.CsvSystem = None,
    csv_reference: options.CsvReference = None,
    csv_id: options.CsvId = None,
    csv_model: options.CsvModel = None,
    csv_created: options.CsvCreated = None,
    json_output: options.JsonOutput = False,
) -> None:
    """Train the cheapest students that could do the job, certify what they can take over, leave a bundle.

    Writes OUT/report.html, OUT/report.json and OUT/bundle. Exit code 3 when nothing could be certified. A pilot that
    was cut off goes on where it stood when the same command is given again.
    """
    from tiercel.cli.tables import pilot_summary
    from tiercel.flows.pilot import PilotSettings
    from tiercel.flows.pilot import pilot as run_pilot

    settings = PilotSettings(
        max_loss=max_loss,
        confidence=confidence,
        students=None if students == "auto" else tuple(s.strip() for s in students.split(",") if s.strip()),
        task=task,
        workload=workload,
        seed=seed,
        encoder=encoder,
        model=model,
        frontier=frontier,
        prices=options.price_file(prices),
        requests_a_day=requests_per_day,
        threads=threads,
        curate=curate,
        curriculum=curriculum,
        teacher=teacher,
        distil=distil,
        micro_size=micro_size,
        precision=precision,
        distil_divergence=distil_divergence,
        distil_weight=distil_weight,
        distil_temperature=distil_temperature,
        gate_samples=gate_samples,
        database=database,
        loss=loss,
        segment=segment,
        segment_control=segment_control,
        cluster=cluster,
        examples=examples,
        format_name=log_format,
        columns=options.csv_columns(csv_input, csv_answer, csv_system, csv_reference, csv_id, csv_model, csv_created),
    )
    with TerminalProgress() as progress:
        result = run_pilot(traffic, out, settings, test=test, progress=progress)
    if json_output:
        print_json(result)
    else:
        pilot_summary(result, out)
    if result.certificate.bound is None:
        raise typer.Exit(3)


def answer(
    bundle: BundleFolder,
    source: Annotated[Path, typer.Option("--input", "-i", help="Requests in the data contract.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON Lines to write.")],
    frontier_url: options.FrontierUrl = None,
    frontier_model: options.FrontierModel = None,
    frontier_key_env: options.FrontierKeyEnv = "TIERCEL_FRONTIER_KEY",
    engine: Annotated[
        str | None,
        typer.Option(
            help="URL of a llama.cpp or vLLM server that serves the decoder's model, or vllm:MODEL to start one with "
            "this folder or name of a model; else it runs here."
        ),
    ] = None,
    json_output: options.JsonOutput = False,
) -> None:
    """Answer a file of requests: from the student where the gate is sure, from the frontier where it is not.

    Without --frontier-url, rows for the frontier carry `answer: null`. Rows that are no requests go to
    NAME.rejects.jsonl beside the output. Exit code 1 when the frontier answered none of the rows that it was sent.
    With --engine the server is asked a few made-up requests first, and must answer them as the bundle's own model
    does; TIERCEL_ENGINE_KEY holds its key.
    """
    from tiercel.flows.answering import answer_file
    from tiercel.flows.bundle import load

    settings = options.frontier_settings(frontier_url, frontier_model, frontier_key_env)
    with TerminalProgress() as progress:
        counts = answer_file(load(bundle, engine=engine), source, output, progress, frontier=settings)
    if json_output:
        print_json(counts)
    else:
        _tell_answers(counts, output)
    if counts.frontier_failed:
        raise typer.Exit(1)


def _tell_answers(counts: AnswerCounts, output: Path) -> None:
    print(f"{counts.rows:,} requests answered into {output}")
    print(f"  {counts.student:,} by the student, {counts.frontier:,} by the frontier, {counts.unanswered:,} left to it")
    if counts.rejected:
        print(f"  {counts.rejected:,} rows are no requests: {counts.rejects}")


def label(
    requests: Annotated[Path, typer.Argument(help="Requests in the data contract: .jsonl or .jsonl.gz.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .jsonl or .jsonl.gz.")],
    budget: Annotated[
        float | None, typer.Option(help="USD that may be spent on this output, earlier runs included; never exceeded.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a minute, at the most.")] = None,
    samples: Annotated[int, typer.Option(help="Ask so many times and keep the answer that most agree on.")] = 1,
    choose: Annotated[int | None, typer.Option(help="Label only so many: those expected to add most.")] = None,
    task: Annotated[
        str | None,
        typer.Option(help="classification, extraction, function_calling, sql or generation; recognised when left out."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also ask requests that have an answer.")] = False,
    frontier_url: options.FrontierUrl = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--frontier-model",
            "--model",
            envvar="TIERCEL_FRONTIER_MODEL",
            help="Model to ask for; as requested when left out.",
        ),
    ] = None,
    frontier_key_env: options.FrontierKeyEnv = "TIERCEL_FRONTIER_KEY",
    prices: options.Prices = None,
    max_tokens: Annotated[int, typer.Option(help="Of an answer, the teacher's reasoning included.")] = 1024,
    temperature: Annotated[float | None, typer.Option(help="Of sampling; the provider's own when left out.")] = None,
    logprobs: Annotated[bool, typer.Option("--logprobs", help="Ask for the tokens' log probabilities.")] = False,
    rationale: Annotated[
        bool,
        typer.Option(
            "--rationale", help="Also ask why each answer is right, for decoders to learn from; a second call."
        ),
    ] = False,
    at_once: Annotated[int, typer.Option(help="Requests under way at a time.")] = 8,
    timeout: Annotated[float, typer.Option(help="Seconds that an answer may take.")] = 600.0,
    seed: Annotated[int, typer.Option(help="Of the choice.")] = 0,
    json_output: options.JsonOutput = False,
) -> None:
    """Have a teacher answer the requests that have no answer, under a budget; the output is ready for a pilot.

    Refused, cut off and unfit answers go to NAME.rejects.jsonl. A run that was cut off goes on where it stood when the
    same command is given again, and pays for nothing twice. Exit code 1 when the provider failed for good or none of
    its answers can be used, 3 when the budget ended first.
    """
    from tiercel.cli.tables import label_summary
    from tiercel.flows.labelling import LabelSettings, label_file

    frontier = options.frontier_settings(frontier_url, model, frontier_key_env, timeout_s=timeout)
    if frontier is None:
        raise ConfigurationError("label needs a teacher; give --frontier-url, such as https://api.openai.com/v1")
    settings = LabelSettings(
        frontier=frontier,
        budget=budget,
        rate=rate,
        samples=samples,
        choose=choose,
        task=task,
        again=again,
        prices=options.price_file(prices),
        max_tokens=max_tokens,
        temperature=temperature,
        logprobs=logprobs,
        rationale=rationale,
        at_once=at_once,
        seed=seed,
    )
    with TerminalProgress() as progress:
        counts = label_file(requests, output, settings, progress)
    if json_output:
        print_json(counts)
    else:
        label_summary(counts, output, budget)
    if counts.left or counts.rationales_left:
        raise typer.Exit(3)
    if (told := counts.nothing_usable()) is not None:
        raise ProviderError(told, provider=frontier.host)
    if counts.failed:
        raise typer.Exit(1)
