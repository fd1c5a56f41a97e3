"""Files of examples that cannot be used: name, bytes, what is said of it (a regular expression)."""

import bz2
import gzip
import lzma

GOOD = b'{"prompt":"a","completion":"x"}\n'
DEEP = b'{"prompt":"a","completion":"x","note":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
FAULTS: list[tuple[str, bytes, str]] = [
    ("a.jsonl", GOOD + '{"prompt":"Straße"}\n'.encode("latin-1"), "line 2 is not UTF-8: byte 47 .* is 0xdf. .*iconv"),
    ("b.json", b"\n[" + GOOD + b',{"prompt":"\xdf"}]', "line 3 is not UTF-8: byte 46 .* is 0xdf"),
    ("a.csv", "prompt,completion\na,x\nStraße,y\n".encode("latin-1"), "line 3 is not UTF-8: byte 26 .* is 0xdf"),
    ("b.csv", "größe,completion\na,x\n".encode("latin-1"), "line 1 is not UTF-8: byte 2 "),
    ("bom.jsonl", b"\xef\xbb\xbf" + '{"prompt":"ß"}\n'.encode("latin-1"), "line 1 is not UTF-8: byte 14 "),
    ("c.jsonl", GOOD.decode().encode("utf-16"), "the file is UTF-16: save it as UTF-8"),
    ("c.csv", "prompt,completion\n".encode("utf-16"), "the file is UTF-16: save it as UTF-8"),
    ("c32.jsonl", GOOD.decode().encode("utf-32"), "the file is UTF-32: save it as UTF-8"),
    ("c32be.csv", b"\x00\x00\xfe\xff" + "a,b\n".encode("utf-32-be"), "the file is UTF-32: save it as UTF-8"),
    ("le.jsonl", GOOD.decode().encode("utf-16-le"), "the file has zero bytes .*UTF-16"),
    ("be.csv", "prompt,completion\n".encode("utf-16-be"), "the file has zero bytes .*UTF-16"),
    ("packed.jsonl", gzip.compress(GOOD), "the file is packed by gzip: unpack it, or let its name end in .gz"),
    ("packed.csv", bz2.compress(GOOD), "the file is packed by bzip2: unpack it"),
    ("packed.json", lzma.compress(GOOD), "the file is packed by xz: unpack it"),
    ("book.csv", b"PK\x03\x04\x14\x00\x06\x00\x08\x00", "the file is a zip archive"),
    ("table.jsonl", b"PAR1\x15\x04\x15\x10", "the file is Parquet: let its name end in .parquet"),
    ("d.jsonl", b'{"prompt":"a","completion":"x","completion":"y"}\n', 'line 1 has the key "completion" twice'),
    ("e.jsonl", GOOD + b'{"prompt":"a","note":{"x":1,"x":2}}\n', 'line 2 has the key "x" twice'),
    ("d.csv", b"prompt,completion,completion\na,x,z\n", '2 columns are called "completion"'),
    ("e.csv", b"prompt,completion\na,x\nb\n", "line 3 ends a row of 1 cell; the header has 2"),
    ("f.csv", b"prompt,completion\na,x,y\n", "line 2 ends a row of 3 cells; the header has 2"),
    (
        "cr.csv",
        b"prompt,completion\ra,x\rb,y\r",
        "line 1 is not CSV: a carriage return stands alone outside quotes; end",
    ),
    (
        "cr2.csv",
        b"prompt,completion\na,x\rb,y\n",
        "line 2 is not CSV: a carriage return stands alone outside quotes; end",
    ),
    ("g.csv", b'prompt,completion\na,"x\n', "line 2 is not CSV: unexpected end of data"),
    ("f.jsonl", b'{"prompt":"\\ud83d","completion":"x"}\n', "line 1 holds half of a surrogate pair"),
    ("g.jsonl", GOOD + b"\n[1]\n", "line 3 is no JSON object"),
    ("s.jsonl", b"[" + GOOD.strip() + b"]\n", "line 1 is no JSON object.*; call a file of one array .json"),
    ("t.json", b"1\n", "line 1 is no JSON object"),
    ("h.jsonl", b'{"prompt":\n"a"}\n', "line 1 is not JSON: Expecting value"),
    ("i.jsonl", GOOD.strip() + GOOD, "line 1 is not JSON: more text after the object, at column 32"),
    ("j.jsonl", DEEP, "line 1 is nested too deeply"),
    ("k.json", b"[" + DEEP + b"]", "element 1 is nested too deeply"),
    ("l.json", b"[" + GOOD, "line 2 is not JSON: one array of objects is needed, then nothing"),
    ("m.json", b"[" + GOOD + b"] x", "line 2 is not JSON: one array of objects is needed, then nothing"),
    ("n.json", b"[1]", "element 1 is no JSON object"),
    ("o.json", b" [ ]", "the file has no rows"),
    ("p.jsonl", b"\n \n", "the file has no rows"),
    ("q.jsonl.gz", GOOD, "Not a gzipped file"),
    ("r.parquet", GOOD, "Parquet"),
]
