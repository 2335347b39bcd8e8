"""Conversations for the tests of a draft."""

WORDS = {"id": ["perahu", "ikan", "laut"], "th": ["น้ำ", "ปลา", "เรือ"]}


def rows(**counts):
    """So many of each language: one to three words, and an answer."""
    return [
        {
            "id": f"{lang}{i}",
            "lang": lang,
            "messages": [
                {"role": "user", "content": " ".join([words[i % 3], words[i // 3 % 3], "?"][: 1 + i % 3])},
                {"role": "assistant", "content": "ya"},
            ],
        }
        for lang, words in WORDS.items()
        for i in range(counts[lang])
    ]
