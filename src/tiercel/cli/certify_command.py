"""`tiercel certify`: a certificate from judged answers, some of them verified; and checking certificates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tiercel.cli import options
from tiercel.cli.terminal import print_json
from tiercel.errors import ConfigurationError

if TYPE_CHECKING:
    from tiercel.routing.audit_verifier import Report

__all__ = ["certificate", "certify", "register", "verify"]


def certify(
    judged: Annotated[Path, typer.Argument(help="JSON Lines with id, judged and, on rows drawn at random, verified.")],
    max_loss: Annotated[float, typer.Option(help="Largest mean loss that you allow.")],
    confidence: Annotated[float, typer.Option(help="Of the certificate.")] = 0.95,
    scores: Annotated[
        bool, typer.Option("--scores", help="judged and verified are scores, 1 is right; else losses, 0 is right.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Record to write, for certificate verify.")] = (
        None
    ),
    seed: Annotated[int, typer.Option(help="Of the order of rows.")] = 0,
    json_output: options.JsonOutput = False,
) -> None:
    """Certify answers that a judge has scored, with the help of the few that somebody verified.

    The judge may be wrong in any way: what it gets wrong is measured on the verified rows. Exit code 3 when the bound
    can't be certified.
    """
    from tiercel.flows.judging import certify_file

    found = certify_file(judged, max_loss=max_loss, confidence=confidence, scores=scores, seed=seed, output=output)
    if json_output:
        print_json(_shown(found))
    else:
        _tell(found, output)
    if not found.certified:
        raise typer.Exit(3)


certificate = typer.Typer(help="Look at certificates and check them.", no_args_is_help=True)


@certificate.command()
def verify(
    certified: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE|RECORD",
            help="A bundle, the folder of the pilot that wrote it, or a record of `tiercel certify`.",
        ),
    ],
    audits: Annotated[
        Path | None, typer.Option(help="The online record too, as `tiercel watch --record FILE` wrote it.")
    ] = None,
    json_output: options.JsonOutput = False,
) -> None:
    """Make a certificate again from its own record; exit 0 when it holds, 1 when it does not or can't be read."""
    from tiercel.flows.judging import is_judged_record

    record = _verified_record(certified) if is_judged_record(certified) else _verified_bundle(certified)
    online = _verified_audits(audits) if audits is not None else None
    if online is not None:
        record["audits"] = {
            "rows": online.rows,
            "draws": online.draws,
            "verdicts": online.verdicts,
            "states": online.states,
            "head": online.head,
        }
    if json_output:
        print_json(record)
        return
    whose = "" if is_judged_record(certified) else ", and is this bundle's"
    kind = "rows" if is_judged_record(certified) else "calibration rows"
    print(f"the certificate follows from its {record['rows']:,} {kind}{whose}")
    print(record["statement"])
    if online is not None:
        print(f"the record of audits: {online}")


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(certify)
    app.add_typer(certificate, name="certificate")


def _verified_audits(path: Path) -> Report:
    from tiercel.errors import CertificateError
    from tiercel.routing.audit_verifier import BadRow, verify_lines

    try:
        return verify_lines(path.read_text("utf-8").splitlines())
    except BadRow as error:
        raise CertificateError(f"{path}: {error}") from None
    except UnicodeDecodeError:
        text = f"{path} is no record of audits; write one with `tiercel watch --record FILE`"
        raise ConfigurationError(text) from None


def _verified_record(path: Path) -> dict[str, Any]:
    from tiercel.flows.judging import verify_record

    return {"verified": True} | _shown(verify_record(path))


def _verified_bundle(folder: Path) -> dict[str, Any]:
    from tiercel.flows.bundle import verify_bundle

    found, outcome = verify_bundle(folder)
    record: dict[str, Any] = {
        "verified": True,
        "statement": found.statement,
        "threshold": outcome.threshold,
        "offload": outcome.offload,
        "estimate": outcome.estimate,
        "rows": len(found.rows),
        "method": found.plan.method,
    }
    thresholds = getattr(outcome, "thresholds", None)
    return record if thresholds is None else record | {"thresholds": thresholds}


def _shown(found: Any) -> dict[str, Any]:
    """A record without its rows, which may be many."""
    import msgspec

    shown = msgspec.to_builtins(found)
    verified = sum(row.verified is not None for row in found.rows)
    return shown | {"rows": len(found.rows), "verified_rows": verified}


def _tell(found: Any, output: Path | None) -> None:
    from tiercel.report.verdict import percent

    def span(interval: Any) -> str:
        return f"{percent(interval.value, 2)} [{percent(interval.low, 2)}, {percent(interval.high, 2)}]"

    print(found.statement)
    print(f"  mean loss about {percent(found.estimate, 2)}; the smallest bound these rows certify: "
          f"{percent(found.upper, 2)}")  # fmt: skip
    judge, weight = found.judge, found.weight
    print(f"  the judge counts {weight:.2f}" + ("" if weight else ": the verified rows speak alone"))
    print(f"  its scores are off by {span(judge.distance)}, and too high in loss by {span(judge.bias)}")
    if judge.missed is not None:
        print(f"  it lets {span(judge.missed)} of wrong answers pass")
    if found.asymptotic is not None:
        a = found.asymptotic
        print(
            f"  PPI++, asymptotic, certifies nothing: {percent(a.estimate, 2)} "
            f"[{percent(a.low, 2)}, {percent(a.high, 2)}]"
        )
    if output is not None:
        print(f"record: {output}")
        print(f"next: tiercel certificate verify {output}")
