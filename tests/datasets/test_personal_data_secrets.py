from __future__ import annotations

import pytest

from tiercel.datasets.personal_data import find
from tiercel.datasets.personal_data_secrets import entropy

MIXED = "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP"
PEM = f"-----BEGIN RSA PRIVATE KEY-----\nMIIEow{MIXED}\n{MIXED}==\n-----END RSA PRIVATE KEY-----"


def secrets(text: str) -> list[str]:
    return [text[s.start : s.end] for s in find(text, ["secret"])]


@pytest.mark.parametrize(
    "value",
    [
        f"sk-{MIXED}",
        f"sk-proj-{MIXED}",
        f"sk-ant-api03-{MIXED}",
        f"sk_live_{MIXED}",
        "AKIAIOSFODNN7EXAMPLE",
        f"ghp_{MIXED}{MIXED[:4]}",
        f"github_pat_{MIXED}",
        f"glpat-{MIXED}",
        f"xoxb-123456789012-{MIXED}",
        f"AIza{MIXED}abc",
        f"hf_{MIXED}",
        f"gsk_{MIXED}",
        JWT,
        PEM,
        PEM.replace("\n", "\\n"),
    ],
)
@pytest.mark.parametrize("around", ["{}", "use {} for it", "KEY='{}'", '{{"a": "{}"}}'])
def test_a_key_in_a_providers_form_is_found_whole(value: str, around: str) -> None:
    assert secrets(around.format(value)) == [value]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("password: hunter2!", "hunter2!"),
        ("The password is Tr0ub4dor&3.", "Tr0ub4dor&3"),
        ("pwd=correct-h0rse", "correct-h0rse"),
        ('"api_key": "9f8e7d6c5b4a39281706"', "9f8e7d6c5b4a39281706"),
        ("export API_KEY=9f8e7d6c5b4a39281706", "9f8e7d6c5b4a39281706"),
        ("client_secret: q8Zr~abc123XYZ", "q8Zr~abc123XYZ"),
        (f"Authorization: Bearer {MIXED}", MIXED),
        ("Authorization: Basic dXNlcjpwYXNzd29yZDEyMw==", "dXNlcjpwYXNzd29yZDEyMw=="),
        ("postgres://app:s3cr3t@db.example:5432/x", "s3cr3t"),
        ("Passwort: geheim99", "geheim99"),
        ("DB_PASSWORD=s3cr3ts", "s3cr3ts"),
        ("userPassword: 's3cr3ts'", "s3cr3ts"),
    ],
)
def test_a_value_that_the_text_calls_a_secret_is_found_without_its_name(text: str, value: str) -> None:
    assert secrets(text) == [value]


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens: 4096",
        "The token is invalid.",
        "password: required",
        "password: <your password>",
        "password=${DB_PASSWORD}",
        "api_key=os.environ['API_KEY']",
        "password: ********",
        "api_key: YOUR_API_KEY_1",
        "The secret is that nobody knows.",
        "the key: value2022",
        "spwd = item._set_parent_1",
        "password = hash_2(text)",
        "password = self.parent_name",
        "Bearer of good news and bad",
        "Basic understanding of economics",
        "risk-assessment-of-the-whole-project",
        "sk-learn-compatible-estimators",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
        "https://example.org:8080/a@b",
    ],
)
def test_words_about_secrets_and_places_for_them_are_left(text: str) -> None:
    assert secrets(text) == []


def test_a_private_key_that_is_cut_off_is_found_as_far_as_it_goes() -> None:
    cut = PEM[:80]
    assert secrets(f"here: {cut}\n\nWhat is wrong?")[0].startswith(cut[:60])
    assert "wrong" not in secrets(f"here: {cut}\n\nWhat is wrong?")[0]


def test_entropy_counts_bits_a_character() -> None:
    assert entropy("aaaa") == 0
    assert entropy("abcd") == pytest.approx(2)
    assert entropy("aabb") == pytest.approx(1)
