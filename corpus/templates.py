r"""What templates of MediaWiki stand for, where that is words or numbers of a sentence.

    python -c "from corpus import markup; print(markup.wikitext('{{convert|12|km2|sqmi}}, {{circa|1200}}'))"

prints "12 km2, c. 1200". A template is a program that only its wiki has. TABLE has those that stand in
sentences in the Wikipedias of the samples' languages, and what they leave there. The others leave nothing,
and are counted. Who reads another wiki adds lines.
"""
import re

# What a template leaves, then its names in small letters. {1} and {text} are its arguments; {2:month} is one
# in a form of FORMS, here May, also for 5. What stands in < > goes if an argument in it is missing. Of
# several lines with a name the first counts that has all other arguments. MEASURE is measure(). \n is a line
# end. lang-* is lang-fr, say.
TABLE = r"""
MEASURE: convert, cvt, convertir, converter, konversi, đổi, تحويل
{1}: nowrap, no wrap, nobr, nobold, noitalic, small, smaller, petit, big, larger, em, strong, smallcaps
{1}: sc, sup, sub, exp, ind, mvar, math, var, mono, tt, code, kbd, samp, sic, not a typo, linktext
{1}: visible anchor, vanchor, abbr, abréviation, abrév, abr, abrv, tooltip, rom, rom-maj, versalita, iast
{1}: unicode, chem2, ruby, formatnum:, num, nts, flag, flagcountry, lang-*, ilc
{1:lower}: lc:
{1:upper}: uc:
{1:lower_first}: lcfirst:
{1:upper_first}: ucfirst:
{2}: lang, langx, langue, color, hover title
{3}: transl, transliteration, translit, font color, tsl
{2}: transl, transliteration, translit, font color, tsl, sort
{1}: sort
{1} {2}: sortname
[sic]: sic
{1}< {2}><{3}>: unité, unidad, unidade, unitats, nombre, nb, fmtn
{1} +{2} −{3}<×10^{e}>< {u}>< {ul}>: val
{1}< ± {2}><×10^{e}>< {u}>< {ul}>: val
{1}<{2}><{3}><{4}><{5}><{6}>: gaps, chem
{1} {2}/{3}: frac, sfrac, fraction
{1}/{2}: frac, sfrac, fraction
1/{1}: frac, sfrac, fraction
c. {1}< – c. {2}>: circa, c., ca.
fl. {1}<–{2}>: floruit, fl.
r. {1}<–{2}>: reign, r.
{alt}: as of
As of {3} {2:month} {1}: as of
As of {2:month} {1}: as of
As of {1}: as of
{1}< {2}>< {3}>: date, date-
{1}/{2}/{3}: dtlink, dtext, fecha
{1} h< {2}>: heure
{1}{2} siècle: s, siècle
{1}{2}: s-
{1}{2} {3} {4}{5} siècles: sp
{1}{2} {3} {4}{5}: sp-
siglo {1}: siglo
século {1}: séc, século
segle {1}: segle
av. J.-C.: av jc
apr. J.-C.: ap jc, apr jc
×10^{1}: e
e: e
er: er
re: re
1er: 1er
1re: 1re
n°: n°, nº
{lt}: ill, interlanguage link
{texte}: lien
{fr}: lien
{نص}: وصلة إنترويكي
{عر}: وصلة إنترويكي
{3}: le, link-en
{1}: ill, interlanguage link, lien, le, link-en
بالإنجليزية: {1}: إنج
بالفرنسية: {1}: فرن
{1} ({2}, {3}): nihongo, japonais
{1} ({2}): nihongo, japonais
{1}: nihongo, japonais
（{1}<{2}>－<{3}><{4}>）: bd
<{c}><{s}><; {t}><; {p}>: zh
\n{1}\n: quote, blockquote, cquote, cita, citação
\n{text}\n: quote, blockquote, cquote
« {1} »: citation, "
US${1}: us$, usd
£{1}: £, gbp
€{1}: €, eur, euro
₹{1}: ₹, inr, indian rupee
₹: ₹, inr, indian rupee
HMS {1}: hms
USS {1}: uss
&#32;–&#32;: snd, spnd, spaced ndash
–: ndash, –
—: mdash, emdash, em dash
&#32;·&#32;: ·, dot, middot
&#32;: nbsp, space, esd
': '
's: 's
|: !
=: =
"""
UNITS = {"C": "°C", "F": "°F"}
MONTHS = ("January February March April May June July August September October November December").split()


def month(text):
    return MONTHS[int(text) - 1] if re.fullmatch(r"\s*(0?[1-9]|1[0-2])\s*", text) else text


def lower_first(text):
    return text[:1].lower() + text[1:]


def upper_first(text):
    return text[:1].upper() + text[1:]


FORMS = {"month": month, "lower": str.lower, "upper": str.upper,
         "lower_first": lower_first, "upper_first": upper_first}


def lines_of(table):
    """{name: [what it leaves, line by line]}"""
    found = {}
    for line in table.strip().split("\n"):
        leaves, names = line.rsplit(": ", 1)
        for name in names.split(", "):
            found.setdefault(name, []).append(leaves.replace("\\n", "\n"))
    return found


LEAVES = lines_of(TABLE)


def measure(arguments):
    """Numbers with their units, without what they are converted to. 12, km2, sqmi -> 12 km2
    12, to, 15, km, mi -> 12 to 15 km; 5, ft, 6, in, m, 1 -> 5 ft 6 in"""
    given = [arguments.get(str(n), "").strip() for n in range(1, len(arguments) + 1)]
    out = []
    for number, unit in zip(given[::2], given[1::2]):
        if not re.match(r"[-+−±~]?\.?\d", number) or not unit:
            break
        out += [number, UNITS.get(unit) or re.sub(r"^(sq|cu)(?=\w)", r"\1 ", unit)]
    return " ".join(out)


def filled(leaves, arguments):
    """A line of TABLE with the arguments put in; None if one that it needs is missing."""
    def put(m):
        if m[1]:
            return filled(m[1], arguments) or ""
        value = arguments[m[2]]
        return FORMS[m[3]](value) if m[3] else value

    try:
        return re.sub(r"<(.*?)>|\{([^{}:]+):?(\w*)\}", put, leaves)
    except KeyError:
        return None


def lines_for(name):
    return LEAVES.get(re.sub("^lang-.*", "lang-*", name), ())


def text_of(name, arguments):
    """What a template leaves, "" for nothing. text_of("nowrap", {"1": "3 islands"}) -> "3 islands"
    """
    arguments = {key: value for key, value in arguments.items() if value.strip()}
    for leaves in lines_for(name):
        text = measure(arguments) if leaves == "MEASURE" else filled(leaves, arguments)
        if text:
            return text
    return ""
