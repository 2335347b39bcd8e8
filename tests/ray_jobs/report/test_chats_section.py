"""The report's section on chats: what it counts, and that text of a user's rows cannot become HTML."""

from cluster import storage
from ray_jobs.report import chats as chats_section
from ray_jobs.report import page as report


def cell(lang: str, category: str, n: int) -> dict:
    lengths = {"p10": 1.0, "p50": 2.0, "p90": 30.0, "p99": 4000.0}
    return {
        "lang": lang,
        "category": category,
        "conversations": n,
        "turns": 2 * n,
        "tokens": 50 * n,
        "answer_tokens": lengths,
    }


def test_section(tmp_path):
    cells = [cell("id", f"c{i:02}", 10 + i) for i in range(12)] + [cell("th", "<b>maths</b>", 1000)]
    storage.write_json(
        str(tmp_path / "sft/data/statistics.json"),
        {"cells": cells, "dropped": {"near_duplicate": {"id": 3, "th": 4}}, "not_sampled": 5},
    )
    made = chats_section.section(str(tmp_path))
    assert (made["conversations"], made["tokens"]) == (1186, 59_300)
    assert made["dropped"] == [("near_duplicate", 7, {"id": 3, "th": 4})]
    assert "others" in made["plot"] and "c11" in made["plot"]
    environment = report.environment()
    page = environment.get_template("chats.html").render(chats=made)
    assert "<td>near_duplicate</td><td>7</td>" in page and "4,000" in page and "5 more are sound" in page
    assert "<b>maths" not in page.replace(str(made["plot"]), "")
    assert environment.get_template("chats.html").render(chats=None).strip() == ""
