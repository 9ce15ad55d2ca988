"""Writes traffic.jsonl.gz from the messages in source/: the log of an invented helpdesk's frontier traffic.

The messages and their queues were written for this project. This script adds what a log has around them: ids, times,
token counts, the answers of the "frontier". A known share of the answers is wrong on purpose (`metadata.wrong`), more
often where a message is hard; a known share of rows carries a verified `reference`. Same input, same bytes.
"""

from __future__ import annotations

import gzip
import io
import json
import random
from pathlib import Path

HERE = Path(__file__).parent
MODEL = "gpt-4o"
START = 1_740_960_000  # Monday, 3 March 2025, 00:00 UTC
DAYS = 60
WRONG = 0.04
"""Share of the answers that are wrong on purpose."""
VERIFIED = 0.35
"""Share of the rows with a verified reference."""

HARD = {"two_wishes": 4.0, "wrong_queue": 4.0, "vague": 4.0, "lang": 2.0, "terse": 2.0}
"""How much more often than others a message with this tag is answered wrongly."""

CONFUSED = {
    "access_rights": ["password_and_login", "joiners_and_leavers", "software_and_licences"],
    "building_and_desks": ["hardware", "procurement", "other"],
    "email_and_calendar": ["software_and_licences", "phone_and_mobile", "security_incident"],
    "expenses_and_travel": ["payroll", "procurement", "other"],
    "hardware": ["procurement", "printing", "building_and_desks"],
    "joiners_and_leavers": ["access_rights", "hardware", "leave_and_absence"],
    "leave_and_absence": ["payroll", "email_and_calendar", "joiners_and_leavers"],
    "network_and_vpn": ["hardware", "password_and_login", "software_and_licences"],
    "other": ["building_and_desks", "email_and_calendar", "procurement"],
    "password_and_login": ["access_rights", "software_and_licences", "security_incident"],
    "payroll": ["expenses_and_travel", "leave_and_absence", "other"],
    "phone_and_mobile": ["hardware", "email_and_calendar", "procurement"],
    "printing": ["hardware", "network_and_vpn", "procurement"],
    "procurement": ["expenses_and_travel", "hardware", "software_and_licences"],
    "security_incident": ["email_and_calendar", "password_and_login", "other"],
    "software_and_licences": ["hardware", "access_rights", "procurement"],
}

PROMPT = (
    "You sort messages that employees send to the company's helpdesk. Read the message and answer with the name of "
    "exactly one queue, nothing else. If a message holds several wishes, take the one that comes first or that is more "
    "urgent. The sender may name a wrong queue; decide by what is needed. Messages may be in any language. Use 'other' "
    "for spam, private matters and all that no queue handles.\n\nQueues:\n"
    "- password_and_login: passwords, locked accounts, sign-in, second factors\n"
    "- hardware: laptops, screens, docks, keyboards, anything broken or slow on a desk\n"
    "- software_and_licences: installing, updating, activating and misbehaving programs\n"
    "- printing: printers, scanners, toner, paper\n"
    "- network_and_vpn: Wi-Fi, cables, VPN, slow or lost connections\n"
    "- email_and_calendar: mailboxes, distribution lists, invitations, shared calendars\n"
    "- phone_and_mobile: desk phones, mobile phones, SIM cards, headsets for calls, voicemail\n"
    "- access_rights: permissions to folders, systems, roles and groups\n"
    "- security_incident: phishing, malware, lost devices, leaks, suspicious sign-ins\n"
    "- payroll: pay, payslips, tax, deductions, bank details\n"
    "- leave_and_absence: holidays, sick notes, parental leave, time accounts\n"
    "- expenses_and_travel: claims, receipts, bookings, company cards, per diems\n"
    "- procurement: purchase requests, quotes, suppliers, orders, invoices of suppliers\n"
    "- joiners_and_leavers: new starters, transfers, leavers, contractors\n"
    "- building_and_desks: rooms, desks, heating, parking, cleaning, keys, canteen, post\n"
    "- other: everything else"
)


def read_messages() -> list[tuple[str, list[str], str]]:
    """Queue, tags and text of every message, in the order of the files."""
    found = []
    for path in sorted((HERE / "source").glob("*.tsv")):
        for line in path.read_text("utf-8").splitlines():
            queue, tags, text = line.split("\t")
            found.append((queue, [t for t in tags.split(",") if t], text.replace("\\n", "\n")))
    return found


def build() -> bytes:
    """The gzip file's bytes."""
    rng = random.Random(20250303)
    messages = read_messages()
    rng.shuffle(messages)
    times = sorted(_working_time(rng) for _ in messages)
    weights = [max([1.0, *(HARD.get(t.split(":")[0], 1.0) for t in tags)]) for _, tags, _ in messages]
    scale = WRONG * len(messages) / sum(weights)
    lines = []
    for number, ((queue, tags, text), weight, moment) in enumerate(zip(messages, weights, times, strict=True), start=1):
        wrong = rng.random() < scale * weight
        answer = rng.choice(CONFUSED[queue]) if wrong else queue
        row = {
            "id": f"helpdesk-{number:04d}",
            "messages": [
                {"role": "system", "content": PROMPT},
                {"role": "user", "content": text},
                {"role": "assistant", "content": answer},
            ],
            "model": MODEL,
            "created": moment,
            "usage": {
                "input_tokens": 402 + len(text) // 4,
                "cached_input_tokens": 384 if rng.random() < 0.7 else 0,
                "output_tokens": 2 + answer.count("_"),
            },
            "metadata": {"tags": tags, "wrong": wrong},
        }
        if rng.random() < VERIFIED:
            row["reference"] = queue
        lines.append(json.dumps(row, ensure_ascii=False))
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="") as stream:
        stream.write(("\n".join(lines) + "\n").encode())
    return packed.getvalue()


def _working_time(rng: random.Random) -> int:
    """A moment of the log: mostly working hours of working days."""
    while True:
        moment = START + rng.randrange(DAYS * 86_400)
        day, hour = (moment - START) // 86_400 % 7, moment % 86_400 // 3600
        if rng.random() < (1.0 if day < 5 else 0.05) * (1.0 if 7 <= hour < 18 else 0.06):
            return moment


if __name__ == "__main__":
    target = HERE / "traffic.jsonl.gz"
    target.write_bytes(build())
    print(f"{target}: {target.stat().st_size:,} bytes")
