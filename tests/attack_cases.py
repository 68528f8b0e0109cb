"""Prints secrets in the forms that Python's own encoders give them, as JSON: a list of [secret, value, form, text].

usage: attack_cases.py [NUMBER [SEED]]: that many cases, chosen by the seed, or all of them
"""

import base64
import html
import json
import pprint
import random
import shlex
import sys
import textwrap
import urllib.parse
import xml.sax.saxutils

PEM = "".join(f"MIIE{n}QIBADANBgkqhkiG9w0BAQEFAASC/+{n}Kq{n}vYx8Zt3\n" for n in range(7))
SECRETS = {
    "token": "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "aws": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY",
    "symbols": "p@ss/w0rd 'x'\"$\\y!#&+=%;<>|`~^*?(){}[]",
    "short": "q7Zk9",
    "digits": "4111111111111111",
    "url": "postgres://admin:s3cr3t-pw@db.internal:5432/app?sslmode=require&x=%20y",
    "pem": f"-----BEGIN PRIVATE KEY-----\n{PEM}-----END PRIVATE KEY-----\n",
    "document": json.dumps({"login": "administrator", "password": "correct horse", "n": 5432}),
    "lines": json.dumps({"login": "administrator", "password": "battery staple"}, indent=2),
    "languages": "p\u00e4ssw\u00f6rd-\u043a\u043b\u044e\u0447-\u5bc6\u7801-\U0001f511",
    "latin": "\u00e9\u00e8\u00fc\u00df\u00f1-caf\u00e9-\u00a3\u00b5",
    "phrase": "correct horse battery staple of many more words than one line has",
    "repetition": "a" * 40,
    "period": "abcabcabcabcabcabcabc",
    "zeros": base64.b64encode(bytes(60)).decode(),
    "tab": "tab\there\u0001and\u007fthere",
    "percent": "100%25%zz%20secret%",
    "backslashes": "C:\\Users\\build\\n\\secret\\\\share",
    "quotes": "it's \"quoted\" & <tagged>",
    "long": "0123456789abcdef" * 40 + "end",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "hex": "5f4dcc3b5aa765d61d8327deb882cf99",
}


def folded(text, width, end="\n", indent=""):
    return end.join(indent + text[at : at + width] for at in range(0, len(text), width))


def in_base64(before, after=""):
    return lambda value: base64.b64encode(f"{before}{value}{after}".encode()).decode()


def unicode_escapes(value, spell):
    return "".join(c if c.isascii() and c.isprintable() and c not in "\\'\"" else spell(ord(c)) for c in value)


def coloured(value):
    middle = len(value) // 2
    return f"\x1b[01;31m\x1b[K{value[:middle]}\x1b[m\x1b[K{value[middle:]}\x1b[0m"


FORMS = {
    "as it is": lambda value: value,
    "with CRLF": lambda value: value.replace("\n", "\r\n"),
    "repr": repr,
    "ascii": ascii,
    "json": json.dumps,
    "json in unicode": lambda value: json.dumps(value, ensure_ascii=False),
    "json in json": lambda value: json.dumps(json.dumps({"k": value})),
    "json with slashes": lambda value: json.dumps(value).replace("/", "\\/"),
    "url": urllib.parse.quote,
    "url without safe letters": lambda value: urllib.parse.quote(value, safe=""),
    "form": urllib.parse.quote_plus,
    "url twice": lambda value: urllib.parse.quote(urllib.parse.quote(value)),
    "url in lower case": lambda value: "".join(
        c.lower() if len(c) == 3 else c for c in (urllib.parse.quote(c, safe="") for c in value)
    ),
    "base64": in_base64(""),
    "base64 after x": in_base64("x", "yy"),
    "base64 after xy": in_base64("xy", "z"),
    "base64 url-safe": lambda value: base64.urlsafe_b64encode(value.encode()).decode().rstrip("="),
    "base64 in lines": lambda value: base64.encodebytes(value.encode()).decode(),
    "base64 in 64 columns": lambda value: folded(in_base64("user:")(value), 64, "\r\n"),
    "base64 indented": lambda value: folded(in_base64("")(value), 40, "\n", "    "),
    "hex": lambda value: value.encode().hex(),
    "hex in upper case": lambda value: value.encode().hex().upper(),
    "hex with colons": lambda value: value.encode().hex(":"),
    "hex as od does it": lambda value: folded(value.encode().hex(" "), 48),
    "hex in C": lambda value: ", ".join(f"0x{byte:02x}" for byte in value.encode()),
    "hex in escapes": lambda value: "".join(f"\\x{byte:02x}" for byte in value.encode()),
    "list of bytes": lambda value: str(list(value.encode())),
    "list of bytes in JSON": lambda value: json.dumps({"data": list(value.encode())}, separators=(",", ":")),
    "list of bytes in lines": lambda value: pprint.pformat(list(value.encode()), width=30),
    "list of bytes in Go": lambda value: f"[{' '.join(map(str, value.encode()))}]",
    "shell": shlex.quote,
    "html": html.escape,
    "xml": xml.sax.saxutils.quoteattr,
    "xml in ASCII": lambda value: html.escape(value).encode("ascii", "xmlcharrefreplace").decode(),
    "unicode_escape": lambda value: value.encode("unicode_escape").decode(),
    "Rust": lambda value: unicode_escapes(value, lambda code: f"\\u{{{code:x}}}"),
    "eight digits": lambda value: unicode_escapes(value.rstrip("\n"), lambda code: f"\\U{code:08X}"),
    "wrapped": lambda value: textwrap.fill(value, 20, break_long_words=False, break_on_hyphens=False)
    if "  " not in value
    else value,
    "indented": lambda value: textwrap.indent(value, "    "),
    "coloured": coloured,
}

cases = [
    [name, value, form, encode(value)] for name, value in SECRETS.items() for form, encode in FORMS.items()
]
if len(sys.argv) > 1:
    random.seed(sys.argv[2] if len(sys.argv) > 2 else "1")
    cases = random.sample(cases, min(int(sys.argv[1]), len(cases)))
json.dump(cases, sys.stdout)
