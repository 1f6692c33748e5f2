"""Implement the two functions of the example profile on three built-in pages; they make no network requests.

    threadledger simulate &
    export OPENAI_BASE_URL=http://127.0.0.1:8765/v1 OPENAI_API_KEY=any THREADLEDGER_TOOLS=examples/web_tools.py
    threadledger trust             # once: the commands run this file
    threadledger ask visitor-1 "What does a parcel to Norway cost?"

Replace them with your own search under the same names. The model reads what a function returns, and the error it
raises.
"""

PAGES = {
    "https://parcels.example/prices": (
        "Prices",
        "A parcel up to 5 kg costs 6.90 within the country and 14.50 to Norway, Sweden and Denmark.",
    ),
    "https://parcels.example/tracking": (
        "Where is my parcel?",
        "A tracking number has twelve digits. It works from the evening of the day on which the parcel was handed in.",
    ),
    "https://parcels.example/claims": (
        "Lost or broken",
        "Report a lost parcel within thirty days. Keep the packaging of a broken one until the claim is settled.",
    ),
}
"""Title and text of each page, by address."""


def web_search(query: str) -> str:
    """Return titles and addresses of the pages that contain words of the query, best match first, one per line."""
    words = {word.strip("?!.,").lower() for word in query.split()} - {""}
    found = []
    for url, (title, text) in PAGES.items():
        page = f"{title} {text}".lower()
        hits = sum(word in page for word in words)
        if hits:
            found.append((-hits, f"{title}: {url}"))
    return "\n".join(line for _, line in sorted(found)) or f"Nothing was found for {query!r}."


def web_open(url: str) -> str:
    """Return the title and text of one page."""
    if url not in PAGES:
        raise LookupError(f"there is no page {url}: open an address that web_search gave")
    title, text = PAGES[url]
    return f"{title}\n\n{text}"
