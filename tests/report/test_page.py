"""The page of a pilot: every state renders, figures are the result's, texts are escaped, nothing is loaded."""

import re
from html.parser import HTMLParser

import msgspec
import pytest

from tiercel.report.charts import curve_chart, money_chart, reliability_chart
from tiercel.report.page import render_page
from tiercel.report.result import (
    CertificateSummary,
    CostSummary,
    Latency,
    PilotResult,
    PolicySummary,
    RowCounts,
    ScopeSummary,
    StudentSummary,
    TestSummary,
    WorkloadSummary,
)
from tiercel.report.verdict import verdict_of
from tiercel.stats.intervals import Interval
from tiercel.stats.ranking import ReliabilityBin
from tiercel.tasks.metrics import Confusion, LabelMetrics

BLOCKS = {"dd", "div", "dt", "li", "td", "th"}
VOID = {"br", "meta", "wbr"}
EXAMPLE = {
    "id": "row-7",
    "text": "where is my card?",
    "student": "card_arrival",
    "frontier": "lost_card",
    "reference": None,
    "score": 0.9731,
}


def student(**changes):
    values = {
        "name": "linear",
        "rung": "linear",
        "accuracy": Interval(value=0.8784, low=0.869, high=0.8873),
        "loss": 0.1216,
        "macro_f1": 0.8128,
        "micro_f1": 0.8128,
        "latency_ms": Latency(p50=0.0382, p99=0.0683),
        "train_seconds": 65.0,
        "size_bytes": 331_479,
        "cost_per_1k_usd": 0.00053,
        "expected_offload": 0.4449,
    }
    return StudentSummary(**(values | changes))


def skipped(name="encoder-tuned", note="it would train for about 74 minutes"):
    empty = dict.fromkeys(
        ("accuracy", "loss", "macro_f1", "micro_f1", "latency_ms", "cost_per_1k_usd", "expected_offload"),
    )
    return student(name=name, rung="encoder", note=note, train_seconds=0.0, size_bytes=0, **empty)


def details(**changes):
    values = {
        "curves": {"test": [(0.0, 0.0), (0.6, 0.01), (1.0, 0.12)], "calibration": [(0.0, 0.0), (1.0, 0.1)]},
        "reliability": [
            ReliabilityBin(confidence=0.5, accuracy=0.47, rows=100),
            ReliabilityBin(confidence=0.9, accuracy=0.93, rows=100),
        ],
        "labels": [
            LabelMetrics(label="card_arrival", precision=0.8767, recall=0.5432, f1=0.6707, rows=177),
            LabelMetrics(label="lost_card", precision=0.9, recall=0.9, f1=0.9, rows=1234),
        ],
        "confusions": [Confusion(actual="lost_card", predicted="card_arrival", rows=97)],
        "accepted_wrongly": [EXAMPLE],
        "escalated_needlessly": [EXAMPLE | {"id": "row-8", "reference": "card_arrival"}],
        "counts": {"accepted_right": 3180, "accepted_wrong": 94, "escalated_right": 1212, "escalated_wrong": 514},
    }
    return values | changes


def built(**changes):
    """A certified result; changes go to its parts by name, such as `certificate={"bound": None}`."""
    result = PilotResult(
        format=1,
        version="0.1.0",
        verdict="",
        workload=WorkloadSummary(
            fingerprint="4b9fc331033d",
            template="Name the intent of {…}.",
            tools=(),
            rows=5000,
            answer_shape="one label of 2",
            frontier="gpt-4o",
        ),
        task="classification",
        rows=RowCounts(train=2883, gate=481, calibration=1442, test=5000, rejected=3, duplicates=11, leaked=194),
        students=(student(),),
        policy=PolicySummary(
            student="linear",
            thresholds={"linear": 0.848416},
            offload=0.6637,
            signals={"confidence": 1.4373, "margin": 0.0},
            gate="first signal",
        ),
        certificate=CertificateSummary(
            max_loss=0.02,
            confidence=0.95,
            bound=0.02,
            offload=0.6637,
            n=1442,
            method="binomial",
            estimate=0.01248,
            verified_rows=0,
            rows_for_tighter={"0.015": 6851, "0.01": None},
            advice="more calibration rows certify a tighter bound",
        ),
        test=TestSummary(
            offload=0.6548,
            excess_loss=Interval(value=0.0188, low=0.0152, high=0.023),
            accuracy=Interval(value=0.9812, low=0.977, high=0.9848),
            escalated=1726,
            frontier_accuracy=None,
            gate_auroc=0.864,
            shift_pvalue=0.4153,
        ),
        cost=CostSummary(
            frontier_usd_per_1k=0.18,
            policy_usd_per_1k=0.0625,
            saved_fraction=0.6528,
            saved_usd_per_year=435.2,
            break_even_days=12.0,
            requests_per_year=3_650_000.0,
            training_usd=3.21,
            tokens_estimated=True,
            price_note="list prices of 2025-09",
        ),
        warnings=("194 rows nearly repeat a row of the test file",),
        details=details(),
    )
    for name, change in changes.items():
        part = getattr(result, name)
        if isinstance(part, msgspec.Struct) and isinstance(change, dict):
            part = msgspec.structs.replace(part, **change)
        else:
            part = change
        result = msgspec.structs.replace(result, **{name: part})
    return msgspec.structs.replace(result, verdict=verdict_of(result))


NO_CERTIFICATE = {
    "certificate": {
        "bound": None,
        "offload": 0.0,
        "estimate": 0.0,
        "n": 60,
        "rows_for_tighter": {"0.015": 199},
        "advice": "a bound of 0.02 needs at least 149 calibration rows",
    },
    "policy": {"student": None, "thresholds": {"linear": None}, "offload": 0.0},
    "test": {"offload": 0.0, "excess_loss": Interval(value=0.0, low=0.0, high=0.001), "escalated": 5000},
}
NO_PRICE = {
    "cost": {
        "frontier_usd_per_1k": None,
        "policy_usd_per_1k": None,
        "saved_fraction": None,
        "saved_usd_per_year": None,
        "break_even_days": None,
        "requests_per_year": None,
        "price_note": "no price is known for llama-99b: add it with --prices FILE",
    }
}
MANY = [
    LabelMetrics(
        label=f"intent_{i}",
        precision=None if i % 9 == 0 else i / 200,
        recall=None if i % 7 == 0 else i / 180,
        f1=i / 190,
        rows=0 if i % 7 == 0 else i,
    )
    for i in range(150)
]
DOUBTS = {
    "rows": 1234,
    "of": 9000,
    "examples": [
        {"id": "a", "text": "<b>my card</b>", "label": "lost_card", "suggested": "card_arrival", "verified": True}
    ],
}
HUGE = EXAMPLE | {"text": "word " * 4000 + "x" * 4000, "student": "label " * 400}
STATES = {
    "certified": {},
    "nothing certified": NO_CERTIFICATE,
    "no price": NO_PRICE,
    "no price, nothing certified": NO_CERTIFICATE | NO_PRICE,
    "no volume": {"cost": {"saved_usd_per_year": None, "break_even_days": None, "requests_per_year": None}},
    "dearer than before": {"cost": {"policy_usd_per_1k": 0.2, "saved_fraction": -0.11, "saved_usd_per_year": -73.0}},
    "several students": {"students": (student(name="cheap"), student(parity=0.9974, note="fp32 is kept"), skipped())},
    "long warnings": {"warnings": ("one " * 300, "x" * 3000)},
    "150 labels": {"details": details(labels=MANY)},
    "huge texts": {"details": details(accepted_wrongly=[HUGE] * 30)},
    "doubtful labels": {"details": details(doubts=DOUBTS)},
    "fields": {"details": details(labels=MANY, labels_are="fields", confusions=[])},
    "no examples": {"details": details(accepted_wrongly=[], escalated_needlessly=[])},
    "no details": {"details": {}},
    "all right": {
        "test": {"gate_auroc": None, "excess_loss": Interval(value=0.0, low=0.0, high=0.001)},
        "details": details(curves={"test": [(0.0, 0.0), (1.0, 0.0)], "calibration": []}, confusions=[]),
    },
    "student better than the frontier": {
        "certificate": {"verified_rows": 1442, "estimate": -0.03, "method": "betting"},
        "test": {
            "excess_loss": Interval(value=-0.02, low=-0.03, high=-0.01),
            "frontier_accuracy": Interval(value=0.91, low=0.9, high=0.92),
        },
        "details": details(curves={"test": [(0.0, 0.0), (0.5, -0.04), (1.0, 0.05)]}),
    },
    "no frontier named, empty test": {
        "workload": {"frontier": None, "template": "", "tools": ("lookup",)},
        "test": {"accuracy": Interval(value=float("nan"), low=0.0, high=1.0)},
    },
    "drift": {"test": {"shift_pvalue": 1e-9}},
}


class Balance(HTMLParser):
    """Raises on a tag that is not closed in its turn; keeps attributes and ids."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.ids = [], [], []
        self.text = []

    def handle_starttag(self, tag, attrs):
        self._note(attrs)
        if tag not in VOID:
            self.open.append(tag)
        elif tag == "br":
            self.text.append(" ")

    def handle_startendtag(self, tag, attrs):
        self._note(attrs)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]} at {self.getpos()}"
        self.open.pop()
        if tag in BLOCKS:
            self.text.append(" ")

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def _note(self, attrs):
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]


def parsed(page):
    parser = Balance()
    parser.feed(page)
    parser.close()
    return parser


def words(page):
    """The text of a page as a reader sees it, spaces alike."""
    return re.sub(r"\s+", " ", "".join(parsed(page).text))


@pytest.fixture(params=STATES, ids=lambda name: name.replace(" ", "-"))
def page(request):
    return render_page(built(**STATES[request.param]))


def test_every_state_is_well_formed(page):
    assert page.startswith("<!doctype html>")
    parser = parsed(page)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    anchors = {value[1:] for name, value in parser.attributes if name == "href"}
    assert anchors <= set(parser.ids)


def test_nothing_is_loaded(page):
    assert "<script" not in page and "<link" not in page and "<img" not in page and "@import" not in page
    loading = {"src", "srcset", "href", "xlink:href", "action", "data", "poster"}
    for name, value in parsed(page).attributes:
        assert name not in loading or value.startswith("#"), (name, value)
        assert not name.startswith("on")
    assert re.findall(r"url\((?!#)", page) == []
    assert "default-src 'none'" in page


def test_no_number_is_left_raw(page):
    text = words(page)
    for broken in ("nan", "None", "Undefined", "inf %", "{{", "-0.0 %"):
        assert not re.search(rf"(?<!\w){re.escape(broken)}(?!\w)", text), broken


def test_equal_results_give_equal_pages():
    assert render_page(built()) == render_page(built())


def test_a_result_read_from_json_gives_the_same_page():
    result = built()
    again = msgspec.json.decode(msgspec.json.encode(result), type=PilotResult)
    assert render_page(again) == render_page(result)


def test_figures_are_those_of_the_result():
    text = words(render_page(built()))
    for figure in (
        verdict_of(built()),
        "66.4 % of 1,442 calibration rows; 65.5 % of 5,000 test rows",
        "2.0 % of all requests, with 95 % confidence; 1.88 % in the test",
        "$435 a year, 65 % of what gpt-4o costs",
        "0.038 ms median on one thread; 99 of 100 within 0.068 ms",
        "87.8 % 86.9 % to 88.7 %",
        "98.1 % 97.7 % to 98.5 %",
        "1.88 % 1.52 % to 2.30 %",
        "331 kB",
        "1.5 % 6,851 1.0 % no number is enough",
        "lost_card card_arrival 97",
        "card_arrival 67.1 % 87.7 % 54.3 % 177",
        "answered by the student 3,180 94 escalated to gpt-4o 1,212 514",
        "gpt-4o, today $0.18 $657",
        "policy in all $0.06 $228",
        "after 12 days",
        "tiercel certificate verify BUNDLE",
        "linear: 0.848416",
        "confidence 1.44",
    ):
        assert figure in text, figure


def test_means_over_the_labels_and_the_scope_are_told_where_they_are_known():
    means = student(macro_precision=0.821, macro_recall=0.805, macro_f1=0.8128)
    scope = ScopeSummary(label="oos", auroc=0.9757, outside=1000, rows=5500)
    text = words(render_page(built(students=(means,), scope=scope)))
    assert "Means over the labels: precision 82.1 %, recall 80.5 %, F1 81.3 %." in text
    assert "1,000 of 5,500 rows are out of scope, labelled “oos”" in text
    assert "in 97.6 % of pairs" in text
    older = words(render_page(built()))
    assert "Means over" not in older
    assert "out of scope" not in older


def test_the_parts_of_the_bill_add_up():
    cost = built().cost
    text = words(render_page(built()))
    escalated = cost.frontier_usd_per_1k * (1 - 0.6637)
    own = cost.policy_usd_per_1k - escalated
    assert f"for what is escalated ${escalated:.2f} ${escalated * 3650:,.0f}" in text
    assert f"own machines ${own:.2g} ${own * 3650:.2f}" in text


def test_html_in_texts_is_escaped():
    evil = "<script>alert('x')</script><b title=\"q\">&amp;"
    example = dict.fromkeys(EXAMPLE, evil) | {"score": 0.5}
    labels = [LabelMetrics(label=evil, precision=0.5, recall=0.5, f1=0.5, rows=2)] * 20
    result = built(
        workload={"frontier": evil, "template": evil, "tools": (evil,), "answer_shape": evil, "fingerprint": evil},
        students=(student(note=evil), skipped(name=evil, note=evil)),
        certificate={"advice": evil, "method": evil},
        cost={"price_note": evil},
        warnings=(evil,),
        details=details(
            labels=labels,
            confusions=[Confusion(actual=evil, predicted=evil, rows=1)],
            accepted_wrongly=[example],
        ),
    )
    page = render_page(result)
    parser = parsed(page)
    assert parser.open == []
    assert "<script" not in page and "<b " not in page and "<b>" not in page
    assert "".join(parser.text).count(evil) > 20


def test_addresses_in_texts_stay_text():
    page = render_page(built(details=details(accepted_wrongly=[EXAMPLE | {"text": "see https://example.com/x"}])))
    assert "see https://example.com/x" in page
    assert not any("example.com" in (value or "") for _, value in parsed(page).attributes)


def test_without_a_certificate_nothing_is_claimed_or_saved():
    page = render_page(built(**NO_CERTIFICATE))
    text = words(page)
    assert "✕ not certified" in text and "✓ certified" not in text
    assert "Nothing is claimed." in text and "no bound" in text
    assert "A bound of 0.02 needs at least 149 calibration rows." in text
    assert "○ best, not certified" in text and "● chosen" not in text
    assert "certified point" not in text and 'class="diamond"' not in page
    assert "$435" not in text and "nothing is saved" in text
    assert "excess loss none, as nothing moves" in text


def test_unknown_money_says_why_and_shows_no_zero():
    text = words(render_page(built(**NO_PRICE)))
    assert "What this saves is not known: no price is known for llama-99b: add it with --prices FILE." in text
    assert not re.search(r"\$0(\.00)?(?![\d.])", text)
    assert "Saving unknown" in text


def test_students_that_were_not_trained_say_why():
    text = words(render_page(built(students=(student(), skipped()))))
    assert "encoder-tuned not trained: it would train for about 74 minutes" in text
    assert "linear ● chosen" in text


def test_examples_that_were_not_kept_are_told_from_none():
    text = words(render_page(built(details=details(accepted_wrongly=[], escalated_needlessly=[]))))
    assert "the pilot was told to show none (examples = 0); 94 rows are of this kind" in text
    counts = {"accepted_right": 1, "accepted_wrong": 0, "escalated_right": 0, "escalated_wrong": 0}
    text = words(render_page(built(details=details(accepted_wrongly=[], escalated_needlessly=[], counts=counts))))
    assert text.count("There is no such row.") == 2


def test_doubtful_labels_are_counted_and_shown_and_left_out_where_there_are_none():
    text = words(render_page(built(details=details(doubts=DOUBTS))))
    assert "1,234 of 9,000 training rows carry a label" in text
    assert "lost_card verified" in text
    for none in (None, {"rows": 0, "of": 9000, "examples": []}):
        assert "worth a second look" not in words(render_page(built(details=details(doubts=none))))


def test_free_text_is_not_sold_as_quality():
    result = built(task="generation", students=(student(accuracy=Interval(value=0.01, low=0.0, high=0.02)),))
    assert "a measure of words, not of meaning" in verdict_of(result)
    assert "quality falls" not in verdict_of(result)
    assert "word for word the same on 1.0 % of the test rows" in words(render_page(result))


def test_fields_are_not_called_labels():
    text = words(render_page(built(details=details(labels=MANY, labels_are="fields", confusions=[]))))
    assert "fields by F1" in text
    assert "labels by F1" not in text
    assert "No label is taken for another" not in text


def test_worst_labels_come_first_and_all_are_there():
    page = render_page(built(details=details(labels=MANY)))
    text = words(page)
    present = [m for m in MANY if m.rows or m.precision is not None]
    assert f"The 15 worst of {len(present)} labels by F1" in text
    assert f"All {len(present)} labels" in text
    shown = re.findall(r'class="label">intent_<wbr>(\d+)</th>', page)
    assert len(shown) == 15 + len(present)
    assert shown[:15] == shown[15:30] == sorted(shown, key=int)[:30:2]


@pytest.mark.parametrize(("pvalue", "warned"), [(0.0009, True), (0.0011, False)])
def test_drift_is_a_visible_caution(pvalue, warned):
    page = render_page(built(test={"shift_pvalue": pvalue}))
    assert ("not drawn like the traffic" in words(page)) is warned
    assert ('class="caution"' in page) is warned


def test_a_test_above_the_bound_is_a_caution():
    page = render_page(built(test={"excess_loss": Interval(value=0.03, low=0.025, high=0.036)}))
    assert "even the low end of its interval is above the bound of 2.0 %" in words(page)
    assert 'class="caution"' not in render_page(built())


@pytest.mark.parametrize(
    ("verified", "sentence"),
    [(0, "hold no verified answers"), (700, "700 of 1,442 calibration rows"), (1442, "Every calibration row has")],
)
def test_the_reference_is_named(verified, sentence):
    assert sentence in words(render_page(built(certificate={"verified_rows": verified})))


def test_bounds_and_confidences_are_not_rounded():
    text = words(render_page(built(certificate={"max_loss": 0.0175, "bound": 0.0175, "confidence": 0.999})))
    assert "costs at most 1.75 % of all requests" in text
    assert "with 99.9 % confidence; 1.88 %" in text
    assert "of 100 such certificates, about 0.1 may be wrong" in text


def test_curve_keeps_the_certified_point_within_the_picture():
    curves = {"test": [(0.0, 0.0), (1.0, 0.9)]}
    chart = curve_chart(curves, bound=0.01, certified=(0.5, 0.004), tested=None)
    assert parsed(chart).open == []
    x, y = map(float, re.search(r'd="M([\d.]+),([\d.]+)l10,10', chart).groups())
    assert 78 < x < 612 and 16 < y < 314
    assert curve_chart({"test": [(0.0, 0.0), (1.0, 0.0)]}, bound=0.02, certified=None, tested=None)


def test_reliability_chart_has_a_point_for_each_group():
    bins = [{"confidence": 0.2, "accuracy": 0.1, "rows": 7}, {"confidence": 1.0, "accuracy": 1.0, "rows": 7}]
    chart = reliability_chart(bins, threshold=0.9)
    assert chart.count("<circle") == 2
    assert "answers to the right of it are used" in chart
    assert "answers to the right of it are used" not in reliability_chart(bins, threshold=None)


@pytest.mark.parametrize(
    ("today", "escalated", "own", "saved"), [(1.0, 0.3, 0.1, True), (1.0, 1.0, 0.2, False), (0.0, 0.0, 0.0, False)]
)
def test_money_chart_stays_within_its_box(today, escalated, own, saved):
    chart = money_chart(today, escalated, own)
    for x, width in re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', chart):
        assert float(x) + float(width) <= 640.01
    assert ('class="saved"' in chart) is saved


def test_fields_are_called_fields_and_queries_have_no_kinds():
    fields = render_page(built(task="extraction", details=details(labels_are="fields", confusions=[])))
    assert '<th scope="col">field</th>' in fields
    assert '<th scope="col">label</th>' not in fields
    assert "a single request, a field or" in words(fields)
    queries = render_page(built(task="sql", details=details(labels=[], labels_are="fields", confusions=[])))
    assert "Where the student errs" not in queries
    assert 'href="#errors"' not in queries
