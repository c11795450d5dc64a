"""Personal information becomes PI:KIND (ROOTS): four rules of corpus/clean.py, beside their patterns.

The bounds on lengths keep the patterns linear in the text. BLOOM accepted that pii_key masks ISBNs too.
"""
import ipaddress
import re

# Chinese, Japanese and Thai put no space around an address: their letters end one, as a space does.
UNSPACED = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff"
W = rf"[^\W{UNSPACED}]"         # a letter, digit or _ of the other scripts
ALONE = rf"(?<!{W})"            # no such letter before
ENDS = rf"(?!{W})"              # ... or after
SIGNS = rf"""\s@?!;,:)('"<{UNSPACED}"""
EMAIL = re.compile(rf"(?<![^{SIGNS}])[^{SIGNS}]{{1,64}}@"                   # somebody@
                   rf"(?:[^\W{UNSPACED}][\w-]{{0,62}}\.){{1,8}}"            # mail.example.
                   rf"[^\W\d_{UNSPACED}]{W}{{1,24}}{ENDS}")                 # org
USER = re.compile(rf"""{ALONE}@[^\s()@,?!;:'"]{{3,64}}""")
IP = re.compile(rf"{ALONE}(?<![.:])(?:[0-9A-Fa-f]{{0,4}}:){{2,8}}[0-9A-Fa-f.:]{{0,19}}(?!:|{W})"     # IPv6
                rf"|{ALONE}(?<![.:])\d{{1,3}}(?:\.\d{{1,3}}){{3}}(?!{W}|:|\.\d)")                    # IPv4
GROUP = r"(?:\d{3,}+|(?=[A-Z]{0,99}\d)[A-Z\d]{3,}+)"
KEY = re.compile(
    rf"{ALONE}(?<![/+=:-])(?=[A-Za-z/+=:_-]{{0,200}}\d)"     # letters and digits change 4 times or more
    rf"[\d/+=:_-]*+(?:[A-Za-z]++[\d/+=:_-]++){{4,}}+[A-Za-z]*+{ENDS}"
    rf"|{ALONE}(?:\d{{9,}}+|{GROUP}(?:[ -]{GROUP}){{2,}}+){ENDS}")      # nine digits, or groups as on a card


def address(match):
    """What replaces a match of IP. 300.1.1.1 is no address; ::2 is one, but rarely meant as one."""
    try:
        ipaddress.ip_address(match[0])
    except ValueError:
        return match[0]
    meant = len(re.findall("[0-9A-Fa-f]+", match[0])) >= 3 and re.search(r"\d", match[0])
    return "PI:IP_ADDRESS" if meant else match[0]


def pii_email(text, row):
    return EMAIL.sub("PI:EMAIL", text) if "@" in text else text


def pii_user(text, row):
    return USER.sub("PI:USER", text) if "@" in text else text


def pii_ip(text, row):
    return IP.sub(address, text)


def pii_key(text, row):
    return KEY.sub("PI:KEY", text)
