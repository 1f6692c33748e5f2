"""List the kinds of secrets that `redact` removes, with their shapes: a table, applied from top to bottom.

Each pattern takes time proportional to the text: it begins with fixed words or after a character that its run cannot
contain, its quantifiers are bounded or possessive, and none is inside another one that could split a text differently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from .redaction import DATA_CHARS_MIN, MASK


@dataclass(frozen=True)
class SecretRule:
    """Describe one shape of a secret. Several rules may have the same kind."""

    kind: str
    """Name of the kind, as SECURITY.md lists it."""
    signs: str
    """Words in lower case, of which every match contains one; a text without them is not searched."""
    pattern: str
    text: str
    """A text with such a secret, whose place is `{}`."""
    secret: str
    """A made-up secret for this place."""
    source: str
    """Where the shape is described."""
    shown: str = MASK
    """What replaces a match: the mask, and the groups of the pattern that stay visible."""

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """Return the compiled pattern; compiling all of them takes too long for a process that reports one error."""
        return re.compile(self.pattern, re.IGNORECASE if self.pattern.startswith("(?#i)") else 0)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Return the signs one by one."""
        return tuple(self.signs.split())


_S = r"(?:\s|\\[nrt]|%20|%0[9AD]|\+)"
_Q = r"(?:\\{0,7}[\"']|(?:%5C){0,7}%2[27]|&(?:quot|apos|#0{0,2}39|#34|#x27|#x22);)"
"""A space, and a quotation mark, also in JSON that is embedded in JSON up to three times, in a URL, and in HTML."""

_AFTER_ESCAPE = r"(?<=%[0-9A-Fa-f]{2})|(?<=\\[nrtbf])|(?<=\\u[0-9A-Fa-f]{4})"
"""Place after `%3D`, a line break in JSON, or a character that JSON escapes: its last letter is not part of a word."""

_START = rf"(?:(?<![A-Za-z0-9])|{_AFTER_ESCAPE})"
_WORD = rf"(?:(?<![A-Za-z])|{_AFTER_ESCAPE})"
_UNLIKE_WORDS = r"(?=[a-z_-]{0,80}[A-Z0-9*])"
"""A capital letter, a digit or an asterisk: ordinary words have the same beginnings as some keys."""

_TOKEN = rf"(?:{_WORD}token|(?-i:(?<=[a-z])Token)|(?:auth|access|refresh|session|bearer|api|bot)token)"
_NOT_TOKEN = (
    r"(?:(?:api|app|auth|access|account|private|signing|encryption|subscription|master|secret|shared[-_. ]?access)[-_. ]?key"
    rf"|passw(?:or)?d|passphrase|{_WORD}pwd|secret|credentials?)"
)
_SUFFIX = (
    r"(?:[-_.]?(?:access|key|id|value|hash|secret|token|json|b64|base64)){0,3}(?:[-_]?\d{1,3})?(?-i:_[A-Z0-9_]{1,40})?"
)
_TOKEN_NAME = rf"{_TOKEN}(?:[-_]?(?:value|hash|secret|\d{{1,3}}))?(?-i:_[A-Z0-9_]{{1,40}})?"
_NAME = rf"(?:{_NOT_TOKEN}{_SUFFIX}|{_TOKEN_NAME})"
NAMED = re.compile(
    rf"[\w.\s-]{{0,60}}(?:{_NAME}|authorization|apikey)|(?:set-)?cookie2?|sig|x-(?:amz|goog)-signature", re.IGNORECASE
)
"""Names of fields whose whole value is a secret."""

_VALUE = r"[^\s\"'\\,;}&<>]"
_EVIDENCE = rf"(?={_VALUE}{{0,200}}\d|{_VALUE}{{20}})"
"""A digit, or a length that words do not have."""

_NOT_CODE = (
    r"(?!\[redacted|\$[A-Z_{(]|[\[{]|[A-Za-z_][\w.]{0,80}[\[(]|(?<=pwd=)[/~]"
    r"|(?-i:None|null|nil|undefined|true|false|True|False|str|int|bytes|bool|lambda|self|cls|this|os|env|process|settings|config)"
    r"(?![\w@#$%^*+/=-]))"
)
"""Not an expression of a program, such as `token = tokens[i]`, and not the name of a folder (`PWD=/home`)."""

_NOT_NAME = r"(?!(?P=name)(?![\w-]))"
_OPENING = rf"{_Q}?{_S}{{0,8}}+(?:=>|[:=]|%3A|%3D){_S}{{0,8}}+b?(?P<quote>{_Q})(?!\[redacted|NAME(?P=quote))"
"""The end of a name, a separator, and the quotation mark before a value. `NAME` is what our messages tell people to write."""

_QUOTED = r"(?:(?!(?P=quote))(?:\\.|[^\\\r\n])){4,}+"
"""A value up to the quotation mark that it began with, or to the end of the line if the text was cut."""

_AUTHORIZATION = rf"(?P<kept>authorization{_Q}?{_S}{{0,8}}+(?:[:=,]|%3A|%3D|%2C){_S}{{0,8}}+b?{_Q}?+)"
_COOKIE = rf"(?:set-)?cookie2?{_Q}?{_S}{{0,8}}+"
_PAIR = r"(?=[\w.!#$&*+^`|~-]{1,100}(?:=|%3D))"
_HOST = r"(?:://|:\\/\\/|%3A%2F%2F)"
_HEX, _LETTERS = "0badc0de" * 4, "Ex4mp1eS3cr3tV4lue" * 3
_SCANNING = "https://docs.github.com/code-security/secret-scanning/introduction/supported-secret-scanning-patterns"


def _key(kind: str, sign: str, shape: str, secret: str, source: str = _SCANNING, start: str = _START) -> SecretRule:
    """Return a rule for keys that are recognized by how they begin."""
    return SecretRule(kind, sign, start + shape, "no such key: {}.", secret, source)


def _named(kind: str, pattern: str, text: str, source: str, signs: str = "") -> SecretRule:
    """Return a rule for values that are recognized by the name before them, in upper or lower case; the name is kept."""
    words = signs or "key passw pwd secret token credential passphrase"
    return SecretRule(kind, words, f"(?#i){pattern}", text, _LETTERS, source, rf"\g<kept>{MASK}")


_PEM, _PEM_SOURCE = "private keys in PEM", "RFC 7468"
_HEADER, _HEADER_SOURCE = "`Authorization` headers of any scheme", "RFC 9110, section 11.6.2"
_COOKIES, _COOKIES_SOURCE = "cookies (`Cookie`, `Set-Cookie`)", "RFC 6265"
_FIELD, _FIELD_SOURCE = (
    "API keys, passwords, secrets and tokens by their name (`x-api-key:`, `Pwd=`, `secret = `)",
    "RFC 6749; names of SDKs and servers",
)
_QUERY, _QUERY_SOURCE = "secrets in the query of a URL (`?key=`, `sig=`, `token=`)", "RFC 6750, section 2.3"
_USER, _USER_SOURCE = "passwords and tokens before the host of a URL", "RFC 3986, section 3.2.1"

RULES: tuple[SecretRule, ...] = (
    SecretRule(
        _PEM,
        "private",
        r"-----BEGIN[^-]{0,60}PRIVATE[ +_%0-9]{1,6}KEY[^-]{0,40}-----[\s\S]*?(?:-----END[^-]{0,80}-----|\Z)",
        "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
        f"{_LETTERS}\n{_LETTERS}",
        _PEM_SOURCE,
    ),
    SecretRule(  # the beginning is missing
        _PEM,
        "private",
        r"(?<![A-Za-z0-9+/=\s\\%])[A-Za-z0-9+/=\s\\%]{16,}+-----END[^-]{0,60}PRIVATE[ +_%0-9]{1,6}KEY[^-]{0,40}-----",
        "{}\n-----END PRIVATE KEY-----",
        f"{_LETTERS}\n{_LETTERS}",
        _PEM_SOURCE,
    ),
    _named(  # schemes with parameters
        _HEADER,
        _AUTHORIZATION[:-1] + r"(?:digest|oauth|hawk|mac|signature|aws4-hmac-sha256)(?:\s|%20){1,8})"
        r"(?:[\w-]{1,40}=(?:\\{0,7}\"[^\"\\]{0,2000}+\\{0,7}\"|[^\s,\"\\]{0,2000}+)(?:[,;]\s{0,4}|\s{0,4}))++",
        'Authorization: Digest username="u", nonce=n, response="{}"',
        _HEADER_SOURCE,
        "authorization",
    ),
    _named(
        _HEADER,
        _AUTHORIZATION[:-1] + r"(?:bearer|basic|token|api-?key|negotiate|ntlm|bot|splunk)(?:\s{1,8}|%20|\+))"
        r"(?!\[redacted)[^\s\"'\\,;}&]{4,}+",
        "'Authorization': 'Token {}'",
        _HEADER_SOURCE,
        "authorization",
    ),
    _named(
        _HEADER,
        _AUTHORIZATION[:-1]
        + rf"(?:[a-z][\w-]{{1,30}}(?:\s|%20))?)(?!\S{{0,40}}\[redacted){_EVIDENCE}[^\s\"'\\,;}}&]{{4,}}+",
        "Authorization: Custom-Scheme {}",
        _HEADER_SOURCE,
        "authorization",
    ),
    _named(
        "bearer tokens",
        rf"(?P<kept>{_WORD}bearer(?:\s{{1,8}}|%20|\+))(?=[\w.~+/=*%-]{{0,200}}?(?:[0-9*]|(?-i:[a-z][A-Z]))|[\w.~+/=*%-]{{20}})"
        r"[\w.~+/=*%-]{6,}+",
        "the bearer {} has expired",
        "RFC 6750",
        "bearer",
    ),
    _named(
        "basic credentials",
        rf"(?P<kept>{_WORD}basic(?:\s{{1,8}}|%20|\+))(?=[\w+/=%-]{{0,200}}?[\d=])[\w+/=%-]{{6,}}+",
        "Basic {}",
        "RFC 7617",
        "basic",
    ),
    _named(
        _COOKIES,
        rf"(?P<kept>{_COOKIE}(?:[:=,]|%3A|%2C){_S}{{0,8}}+b?(?P<quote>{_Q})){_PAIR}(?:(?!(?P=quote))[^\\\r\n])++",
        '{{"set-cookie": "session={}; Path=/"}}',
        _COOKIES_SOURCE,
        "cookie",
    ),
    _named(
        _COOKIES,
        rf"(?P<kept>{_COOKIE}(?::|%3A){_S}{{0,8}}+){_PAIR}[^\r\n\"'\\]++",
        "Cookie: theme=dark; session={}",
        _COOKIES_SOURCE,
        "cookie",
    ),
    _named(  # as Python shows it
        _COOKIES,
        rf"(?P<kept>(?:<|&lt;|%3C)cookie{_S}{{1,4}}[^\s=%]{{1,100}}(?:=|%3D))(?!\[redacted)(?:(?!%20|\+for)[^\s>]){{4,}}+",
        "<Cookie session={} for host.example/>",
        _COOKIES_SOURCE,
        "cookie",
    ),
    _key(
        "JSON Web Tokens",
        "eyj",
        r"eyJ[\w-]{5,}+\.(?:[\w-]{4,}+|(?=\.[\w-]))(?:\.[\w-]++){0,3}",
        f"eyJhbGciOiJIUzI1NiJ9.{_LETTERS}.{_LETTERS}",
        "RFC 7519",
    ),
    _key(
        "keys of threadledger's served API",
        "tl-",
        r"tl-(?:[a-z0-9_-]{1,63}\.)?[0-9a-f]{20,}+",
        f"tl-{_HEX * 2}",
        "`threadledger serve keys`",
    ),
    _key("Anthropic keys", "sk-ant-", r"sk-ant-[\w*.-]{4,}+", f"sk-ant-api03-{_LETTERS}", _SCANNING),
    _key(
        "OpenAI keys and others that begin with `sk-`",
        "sk- sess- rk- pk- ek-",
        r"(?:sk|sess|rk|pk|ek)-(?=[\w.-]{0,100}?(?:[0-9A-Z*]|\.\.)|[\w.-]{16})(?:[\w*-]|\.(?=[\w*.-])){4,}+",
        f"sk-proj-{_LETTERS}",
        "https://platform.openai.com/docs/api-reference/authentication",
        rf"(?:(?<![\w-])|{_AFTER_ESCAPE})",
    ),
    _key("OpenAI keys and others that begin with `sk-`", "ek_", r"ek_[0-9a-fA-F]{20,}+", f"ek_{_HEX}"),
    _key(
        "Azure keys",
        "jqqj9",
        r"[A-Za-z0-9]{52}JQQJ9[A-Za-z0-9]{27}",
        "Ex4mp1eS3cr3t" * 4 + "JQQJ9" + "Ex4mp1e3t" * 3,
        "https://github.com/microsoft/security-utilities (common annotated security keys)",
    ),
    _key("Google keys", "aiza", r"AIza[\w*-]{20,}+", f"AIzaSy{_LETTERS}"[:39]),
    _key("Google keys", "ya29. gocspx-", r"(?:ya29\.|GOCSPX-)[\w.-]{16,}+", f"ya29.{_LETTERS}"),
    _key("AWS keys", "akia asia", r"A[KS]IA[A-Z0-9*]{12,}+", "AKIAIOSFODNN7EXAMPLE"),
    _key("GitHub tokens", "gh", rf"gh[opsur]_{_UNLIKE_WORDS}[\w*]{{20,}}+", f"ghp_{_LETTERS}"[:40]),
    _key("GitHub tokens", "github_pat_", rf"github_pat_{_UNLIKE_WORDS}[\w*]{{20,}}+", f"github_pat_{_LETTERS}"),
    _key(
        "GitLab tokens",
        "gl",
        rf"gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|oas|soat|ffct)-{_UNLIKE_WORDS}[\w*-]{{16,}}+",
        f"glpat-{_LETTERS}"[:26],
    ),
    _key("Slack tokens and web hooks", "xox xapp-", r"(?:xox[a-z]|xapp)-[\w*.-]{8,}+", f"xoxb-{_LETTERS}"),
    SecretRule(
        "Slack tokens and web hooks",
        "hooks.slack.com",
        r"(?P<kept>hooks\.slack\.com(?:/|\\/|%2F)(?:services|workflows|triggers)(?:/|\\/|%2F))[\w/%\\-]{4,}+",
        "https://hooks.slack.com/services/{}",
        f"T000/B000/{_LETTERS}",
        "https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks",
        rf"\g<kept>{MASK}",
    ),
    _key(
        "Stripe keys",
        "sk_ rk_ whsec_",
        r"(?:[sr]k_(?:live|test)_[\w*]{8,}+|whsec_[\w*+/=]{16,}+)",
        f"rk_live_{_LETTERS}",
    ),
    _key("Hugging Face tokens", "hf_", rf"hf_{_UNLIKE_WORDS}[\w*]{{20,}}+", f"hf_{_LETTERS}"[:37]),
    _key("npm tokens", "npm_", r"npm_[A-Za-z0-9*]{20,}+", f"npm_{_LETTERS}"[:40]),
    _key("PyPI tokens", "pypi-ag", r"pypi-Ag[\w-]{16,}+", f"pypi-AgEIcHlwaS5vcmc{_LETTERS}"),
    _key("xAI keys", "xai-", rf"xai-{_UNLIKE_WORDS}[\w*]{{20,}}+", f"xai-{_LETTERS}"),
    _key("Groq keys", "gsk_", rf"gsk_{_UNLIKE_WORDS}[\w*]{{20,}}+", f"gsk_{_LETTERS}"),
    _key("Perplexity keys", "pplx-", rf"pplx-{_UNLIKE_WORDS}[\w*]{{20,}}+", f"pplx-{_LETTERS}"),
    _key("NVIDIA keys", "nvapi-", rf"nvapi-{_UNLIKE_WORDS}[\w*-]{{20,}}+", f"nvapi-{_LETTERS}"),
    _key("Together keys", "tgp_v1_", rf"tgp_v1_{_UNLIKE_WORDS}[\w*-]{{20,}}+", f"tgp_v1_{_LETTERS}"),
    _key("Cerebras keys", "csk-", rf"csk-{_UNLIKE_WORDS}[\w*]{{20,}}+", f"csk-{_LETTERS}"),
    _key("Databricks tokens", "dapi", r"dapi[0-9a-f]{32}(?:-\d{1,2})?(?![A-Za-z0-9])", f"dapi{_HEX}"),
    _key("Vault tokens", "hvs. hvb. hvr.", rf"hv[sbr]\.{_UNLIKE_WORDS}[\w*-]{{20,}}+", f"hvs.{_LETTERS}"),
    _key("Docker tokens", "dckr_", rf"dckr_[op]at_{_UNLIKE_WORDS}[\w*-]{{20,}}+", f"dckr_pat_{_LETTERS}"),
    _key("DigitalOcean tokens", "_v1_", r"do[opr]_v1_[0-9a-f]{20,}+", f"dop_v1_{_HEX * 2}"),
    SecretRule(
        "Telegram bot tokens",
        "bot",
        r"(?P<kept>(?:/|\\/|%2F)bot\d{6,12}(?::|%3A))[\w-]{20,}+",
        "https://api.telegram.org/bot1234567890:{}/getMe",
        f"AAE{_LETTERS}"[:35],
        _SCANNING,
        rf"\g<kept>{MASK}",
    ),
    SecretRule(
        "Discord web hooks",
        "webhooks",
        r"(?P<kept>webhooks(?:/|\\/|%2F)\d{6,22}(?:/|\\/|%2F))[\w-]{20,}+",
        "https://discord.com/api/webhooks/1234567890/{}",
        _LETTERS,
        _SCANNING,
        rf"\g<kept>{MASK}",
    ),
    _key("Replicate tokens", "r8_", rf"r8_{_UNLIKE_WORDS}[\w*]{{20,}}+", f"r8_{_LETTERS}"[:40]),
    _key(
        "Twilio keys and account ids",
        "sk ac",
        r"(?:SK|AC)[0-9a-f]{32}(?::[0-9a-f]{32})?(?![A-Za-z0-9])",
        f"SK{_HEX}",
        "https://www.twilio.com/docs/glossary/what-is-a-sid",
    ),
    _key(
        "SendGrid keys", "sg.", rf"SG\.{_UNLIKE_WORDS}[\w*-]{{16,}}+(?:\.[\w*-]{{1,}}+)?", f"SG.{_LETTERS}.{_LETTERS}"
    ),
    _named(
        _FIELD, rf"(?P<kept>{_NOT_TOKEN}{_SUFFIX}{_OPENING}){_QUOTED}", '{{\\"api_key\\": \\"{}\\"}}', _FIELD_SOURCE
    ),
    _named(
        _FIELD,
        rf"(?P<kept>{_TOKEN_NAME}{_OPENING})(?=[^\"'\\\r\n]{{0,200}}?\d|[^\"'\\\r\n]{{16}}){_QUOTED}",
        '"access_token": "{}"',
        _FIELD_SOURCE,
    ),
    _named(
        _FIELD,
        rf"(?P<kept>(?P<name>{_NAME})(?:=|:(?=\S)|%3D|%3A(?!%20))){_NOT_NAME}{_NOT_CODE}(?!\d{{1,9}}(?![\w.-])){_VALUE}{{4,}}+",
        "Server=db;Uid=app;Pwd={};",
        "https://learn.microsoft.com/dotnet/framework/data/adonet/connection-strings",
    ),
    _named(
        _FIELD,
        rf"(?P<kept>(?P<name>{_NOT_TOKEN}{_SUFFIX}){_S}{{0,4}}+(?:=|%3D){_S}{{0,4}}+){_NOT_NAME}{_NOT_CODE}{_VALUE}{{4,}}+",
        "secret = {}",
        _FIELD_SOURCE,
    ),
    _named(
        _FIELD,
        rf"(?P<kept>(?P<name>{_NAME}){_Q}?{_S}{{0,4}}+(?:[:=]|%3A|%3D){_S}{{0,8}}+){_NOT_NAME}{_NOT_CODE}(?!https?:|\d{{1,9}}(?![\w.-])){_EVIDENCE}{_VALUE}{{4,}}+",
        "x-api-key: {}",
        _FIELD_SOURCE,
    ),
    _named(  # an element of XML
        _FIELD,
        rf"(?P<kept>(?:<|&lt;|%3C)[\w.:%-]{{0,80}}{_NAME}(?:\s[^<>&]{{0,200}})?(?:>|&gt;|%3E))"
        r"(?!\[redacted)(?:(?!%3C)[^\s<>&]){4,}+",
        "<ns:password>{}</ns:password>",
        _FIELD_SOURCE,
    ),
    _named(  # ["name", "value"], as headers are listed
        _FIELD,
        rf"(?P<kept>(?:[\[(]|%5B|%28){_S}{{0,8}}+b?{_Q}[\w.-]{{0,40}}(?:{_NAME}|authorization){_Q}{_S}{{0,8}}+(?:,|%2C){_S}{{0,8}}+b?{_Q})"
        r"(?=[^\"'\\]{0,200}\d)(?!\[redacted)[^\"'\\]{4,}+",
        "[(b'x-api-key', b'{}')]",
        _FIELD_SOURCE,
        "key passw pwd secret token credential authorization",
    ),
    _named(
        _FIELD,
        rf"(?P<kept>--[a-z-]{{0,30}}{_NAME}(?:\s{{1,4}}|%20))(?![\[-]){_EVIDENCE}{_VALUE}{{4,}}+",
        "curl --api-key {}",
        _FIELD_SOURCE,
    ),
    _named(
        _FIELD,
        rf"(?P<kept>(?:key|token|password|secret){_S}(?:provided|given|received|used|is|was){_S}?(?:[:=]|%3A|%3D){_S}{{0,4}}+)"
        rf"{_NOT_CODE}(?:{_EVIDENCE}|(?={_VALUE}{{0,200}}?\*)){_VALUE}{{4,}}+",
        "Incorrect API key provided: {}",
        _FIELD_SOURCE,
    ),
    _named(
        _QUERY,
        rf"(?P<kept>{_WORD}sig{_S}{{0,4}}+(?:=|%3D){_S}{{0,4}}+){_NOT_CODE}{_EVIDENCE}{_VALUE}{{4,}}+",
        "sig = {}",
        _QUERY_SOURCE,
        "sig",
    ),
    _named(
        _QUERY,
        r"(?P<kept>(?:[?&;#]|%3F|%26|%3B|\\u0026)(?:key|sig|signature|token|secret|auth|pwd|pass|password|jwt|sas|hmac"
        r"|x-(?:amz|goog)-(?:signature|credential|security-token))(?:=|%3D))"
        r"(?!\[redacted)(?:(?!%26|%23)[^&\s\"'<>#\\,;)}\]]){4,}+",
        "GET https://host.example/v1?version=1&sig={}&x=1",
        _QUERY_SOURCE,
        "key sig token secret auth pwd pass jwt sas hmac credential",
    ),
    _named(
        _USER,
        rf"(?P<kept>{_HOST}[^\s/:@\"'<>]{{0,200}}(?::|%3A))(?!\d{{1,5}}(?:[/?#\s\"']|$)|\[redacted\](?:@|%40))"
        r"(?:[^\s/\"'<>]{1,300}(?=@|%40)|[^\s\"'<>?#]{1,300}(?=@))",
        "postgresql+psycopg://ledger:{}@db.example/ledger",
        _USER_SOURCE,
        ":// %3a%2f%2f :\\/\\/",
    ),
    _named(
        _USER,
        rf"(?P<kept>(?:https?|git|ssh|wss?){_HOST})(?=[\w.~%*+=-]{{0,100}}?\d)[\w.~*+=-]{{8,200}}(?=@|%40)",
        "https://{}@git.example/app.git",
        _USER_SOURCE,
        ":// %3a%2f%2f :\\/\\/",
    ),
)
"""The kinds of secrets. Headers and PEM come first, since they contain whole lines; URLs come last."""

# Data of attachments: a provider that refuses a request may repeat it

DATA_MASK = "[data not shown]"
_BASE64 = rf"(?:[A-Za-z0-9+/_-]|\\/|%2[BbFf]){{{DATA_CHARS_MIN},}}+(?:=|%3[Dd]){{0,2}}"
_FIELDS = r"data|file_data|b64_json|partial_image_b64|result"
_DATA = re.compile(rf"(data:[!-+\--:<-~]{{1,200}};base64,|{_Q}(?:{_FIELDS}){_Q}\s?:\s?{_Q}){_BASE64}")
_DATA_FIELD = re.compile(rf"(?:{_FIELDS})")
_ONLY_DATA = re.compile(_BASE64)


def without_data(text: str, name: str = "") -> str:
    """Return text without the base64 of attachments: in `data:` URLs, and in the fields in which APIs have it.

    `name` is the field that holds the text.
    """
    if name and _DATA_FIELD.fullmatch(name) and _ONLY_DATA.fullmatch(text):
        return DATA_MASK
    return _DATA.sub(rf"\1{DATA_MASK}", text)
