"""What Python there is inside the sandbox, as far as a build must know.

The guest is the CPython that componentize-py brings along, compiled for WASI: another version and another standard
library than the interpreter that builds.  The tables were read off a guest, the SDK installed, that tried every name.
"""

from __future__ import annotations

VERSION = (3, 14)
PLATFORM = "wasi"
OS_NAME = "posix"

# Top-level modules of the standard library that can be imported in the guest.
STANDARD_LIBRARY = frozenset(
    """
    __future__ _abc _aix_support _android_support _apple_support _ast _ast_unparse _asyncio _bisect _blake2 _codecs
    _codecs_cn _codecs_hk _codecs_iso2022 _codecs_jp _codecs_kr _codecs_tw _collections _collections_abc _colorize
    _compat_pickle _contextvars _csv _decimal _elementtree _functools _heapq _hmac _imp _io _ios_support _json
    _locale _lsprof _markupbase _md5 _multibytecodec _opcode _opcode_metadata _operator _osx_support _pickle _py_abc
    _py_warnings _pydatetime _pydecimal _pyio _pylong _pyrepl _queue _random _sha1 _sha2 _sha3 _signal _sitebuiltins
    _socket _sqlite3 _sre _stat _statistics _string _strptime _struct _suggestions _symtable _sysconfig _thread
    _threading_local _tokenize _tracemalloc _types _typing _warnings _weakref _weakrefset abc annotationlib argparse
    array ast asyncio atexit base64 bdb binascii bisect builtins cProfile calendar cmath cmd code codecs codeop
    collections colorsys compileall compression concurrent configparser contextlib contextvars copy copyreg csv
    dataclasses datetime dbm decimal difflib dis doctest email encodings ensurepip enum errno faulthandler filecmp
    fileinput fnmatch fractions ftplib functools gc genericpath getopt getpass gettext glob graphlib gzip hashlib
    heapq hmac html http imaplib importlib inspect io ipaddress itertools json keyword linecache locale logging
    mailbox marshal math mimetypes modulefinder multiprocessing netrc ntpath nturl2path numbers opcode operator
    optparse os pathlib pdb pickle pickletools pkgutil platform plistlib poplib posix posixpath pprint profile
    pstats py_compile pyclbr pydoc pydoc_data pyexpat queue quopri random re reprlib rlcompleter runpy sched secrets
    select selectors shelve shlex shutil signal site smtplib socket socketserver sqlite3 sre_compile sre_constants
    sre_parse stat statistics string stringprep struct subprocess symtable sys sysconfig tabnanny tarfile tempfile
    textwrap threading time timeit token tokenize tomllib trace traceback tracemalloc types typing unicodedata
    unittest urllib uuid venv warnings wave weakref webbrowser wsgiref xml xmlrpc zipapp zipfile zipimport zlib
    """.split()  # noqa: SIM905
)

# What to do instead of a module that the guest lacks.
INSTEAD = {
    "ssl": "reach the outside with host.http_fetch: the node speaks TLS, the actor never sees a socket",
    "ctypes": "there is no native code in the sandbox; find a pure-Python way",
    "multiprocessing": "start more actors instead: host.spawn",
    "tkinter": "an actor has no screen",
    "turtle": "an actor has no screen",
    "curses": "an actor has no terminal",
    "readline": "an actor has no terminal",
    "fcntl": "there are no files in the sandbox; keep data in state(), host.kv_put or a blob",
    "mmap": "there are no files in the sandbox; keep data in state(), host.kv_put or a blob",
    "bz2": "use zlib or gzip, which the sandbox has",
    "lzma": "use zlib or gzip, which the sandbox has",
    "resource": "the node limits memory and time; see the limits of the node's configuration",
    "zoneinfo": "there is no time-zone database in the sandbox; use datetime.timezone, or have the caller convert",
    "cgi": "Python 3.13 dropped it; use urllib.parse and email.message",
    "imp": "Python 3.12 dropped it; use importlib",
    "distutils": "Python 3.12 dropped it",
    "telnetlib": "Python 3.13 dropped it",
    "pipes": "Python 3.13 dropped it; use shlex.quote",
    "crypt": "Python 3.13 dropped it; use hashlib.scrypt's relatives or a pure-Python package",
}

# Modules that can be imported in the guest, for what they hold besides, but whose main use fails there.
OF_NO_USE = {
    "threading": "there is one thread in the sandbox; ask several actors at once with host.ask_many",
    "multiprocessing": "there are no processes in the sandbox; start more actors with host.spawn",
    "concurrent.futures": "there are no threads in the sandbox; ask several actors at once with host.ask_many",
    "subprocess": "there are no processes in the sandbox",
    "socket": "there is no network in the sandbox; reach the outside with host.http_fetch",
    "socketserver": "there is no network in the sandbox; an actor is called through its handlers",
    "select": "there is no network in the sandbox",
    "selectors": "there is no network in the sandbox",
    "signal": "there are no signals in the sandbox; the node stops an actor through @terminate_handler",
    "asyncio": "handlers are plain blocking functions: host.ask(...) waits without await and blocks nobody else",
    "sqlite3": "there are no files in the sandbox; keep data in state() or host.kv_put (':memory:' works)",
    "tempfile": "there are no files in the sandbox; use io.BytesIO or a blob",
    "shelve": "there are no files in the sandbox; keep data in state() or host.kv_put",
    "dbm": "there are no files in the sandbox; keep data in state() or host.kv_put",
    "http.client": "there is no network in the sandbox; reach the outside with host.http_fetch",
    "http.server": "there is no network in the sandbox; an actor is called through its handlers",
    "urllib.request": "there is no network in the sandbox; reach the outside with host.http_fetch",
    "ftplib": "there is no network in the sandbox",
    "smtplib": "there is no network in the sandbox; reach a mail service with host.http_fetch",
    "imaplib": "there is no network in the sandbox",
    "poplib": "there is no network in the sandbox",
    "webbrowser": "an actor has no screen",
    "venv": "there is no file system in the sandbox",
    "ensurepip": "there is no file system in the sandbox",
}

# What the standard library imports only when it needs it.  There is nothing to import from once the component is
# built, so these come along in every component: small modules, shared by all instances.
ALWAYS_LOADED = (
    "_strptime",
    "_pylong",
    "_ast_unparse",
    "ast",
    "calendar",
    "copy",
    "contextlib",
    "difflib",
    "encodings.ascii",
    "encodings.base64_codec",
    "encodings.cp1252",
    "encodings.hex_codec",
    "encodings.idna",
    "encodings.iso8859_15",
    "encodings.latin_1",
    "encodings.punycode",
    "encodings.raw_unicode_escape",
    "encodings.unicode_escape",
    "encodings.utf_16",
    "encodings.utf_16_be",
    "encodings.utf_16_le",
    "encodings.utf_32",
    "encodings.utf_8_sig",
    "heapq",
    "linecache",
    "locale",
    "stringprep",
    "tokenize",
    "traceback",
    "unicodedata",
    "warnings",
)

# The same for modules that are not in every component: when the first is loaded, so are the others.
LOADED_WITH = {
    "email": ("email.parser", "email.policy"),
    "email.message": ("email.generator", "email.policy"),
    "email.utils": ("email.charset",),
    "enum": ("inspect",),
    "hashlib": ("_blake2", "_md5", "_sha1", "_sha2", "_sha3"),
    "inspect": ("importlib", "dis"),
    "logging": ("pickle",),
    "pickle": ("pprint",),
    "pprint": ("dataclasses",),
    "reprlib": ("math",),
    "typing": ("annotationlib", "inspect"),
    "fractions": ("decimal",),
    "xml.dom.pulldom": ("xml.dom.minidom",),
    "xml.dom.xmlbuilder": ("xml.dom.expatbuilder",),
    "xml.etree.ElementTree": ("pyexpat",),
}


def has_standard_module(name: str) -> bool:
    """Whether `name`, a module of the standard library somewhere, is there in the guest."""
    return name.partition(".")[0] in STANDARD_LIBRARY
