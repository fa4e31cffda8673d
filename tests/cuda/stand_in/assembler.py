"""What ptxas is to a GPU, this is to the stand-in: PTX becomes C, and the C compiler makes a library of it.

Each PTX instruction becomes one C statement, so the arithmetic is that of the PTX ISA: nothing is contracted, nothing
reordered. An instruction that is not known here is an error, not a guess.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
DRIVER = "libcuda.so.1"

C_TYPES = {f"{kind}{bits}": f"{'' if kind == 's' else 'u'}int{bits}_t" for kind in "usb" for bits in (8, 16, 32, 64)}
C_TYPES |= {"f16": "_Float16", "f32": "float", "f64": "double", "pred": "uint8_t"}
SPECIAL = {
    f"%{name}.{axis}": f"t->{name}[{k}]" for name in ("tid", "ctaid", "ntid", "nctaid") for k, axis in enumerate("xyz")
}
SPECIAL |= {"%dynamic_smem_size": "t->dynamic_bytes", "%clock64": "stand_in_instructions"}
ORDERED = {"eq": "==", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
INFIX = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^"}
OF_UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}  # other names of comparisons
TO_INTEGERS = {"rni": "rint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}  # to nearest, to zero, down, up


class Statement(NamedTuple):
    line: int
    text: str  # a label ends in a colon, { and } are scopes


def statements(ptx: str) -> list[Statement]:
    found, text, line, began = [], "", 1, 1
    inside = 0  # braces within a statement, as in a vector of registers
    for character in re.sub(r"//[^\n]*", "", ptx):
        line += character == "\n"
        if not text.strip():
            text, began = "", line
        if character in "{}" and not text and not inside:
            found.append(Statement(line, character))
        elif character == ";" or (character == ":" and re.fullmatch(r"\s*[$\w]+", text)):
            found.append(Statement(began, (text + character).strip().removesuffix(";")))
            text = ""
        elif character == "{" and ".entry" in text:  # the parameters have no semicolon
            found += [Statement(began, text.strip()), Statement(line, "{")]
            text = ""
        else:
            inside += (character == "{") - (character == "}")
            text += character
        if re.fullmatch(r"\s*\.(version|target|address_size)[^\n]*\n", text):
            text = ""
    return found


def split(operands: str) -> list[str]:
    """At the commas outside of braces and brackets."""
    return [part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,])+", operands)]


class Translation:
    """One kernel."""

    def __init__(self, shared: dict[str, int]):
        self.shared = shared  # name -> offset
        self.parameters: dict[str, int] = {}
        self.fields: list[str] = []
        self.scopes: list[dict[str, tuple[str, str]]] = [{}]  # register -> C name, type
        self.code: list[str] = []
        self.waits = self.pending = 0
        self.line = 0

    # ---- operands ------------------------------------------------------------------------------------

    def declare(self, kind: str, names: str):
        for name in names.split(","):
            name = name.strip()
            many = re.fullmatch(r"%(\w+)<(\d+)>", name)
            field = f"{name.strip('%').split('<')[0]}_{len(self.fields)}"
            self.fields.append(f"{C_TYPES[kind]} {field}[{many.group(2) if many else 1}];")
            self.scopes[-1]["%" + many.group(1) if many else name] = (field, kind)

    def register(self, name: str) -> tuple[str, str]:
        """Its place in C, and its type."""
        for scope in reversed(self.scopes):
            if name in scope:
                return f"r->{scope[name][0]}[0]", scope[name][1]
            family = name.rstrip("0123456789")
            if family in scope and family != name:
                return f"r->{scope[family][0]}[{name.removeprefix(family)}]", scope[family][1]
        raise ValueError(f"line {self.line}: unknown register {name}")

    def read(self, operand: str, kind: str) -> str:
        wanted = C_TYPES[kind]
        if operand in SPECIAL:
            return f"({wanted}){SPECIAL[operand]}"
        if operand in self.shared:
            return f"({wanted})(t->shared + {self.shared[operand]})"
        if operand.startswith("%"):
            place, held = self.register(operand)
            if held == kind or (held[0] != "f" and kind[0] != "f"):
                return f"({wanted}){place}"
            return f"as_{kind}({place})" if kind[0] == "f" else f"({wanted})bits_{held}({place})"
        if match := re.fullmatch(r"0[fd]([0-9A-Fa-f]+)", operand):
            bits = f"0x{match.group(1)}ull"
            return f"as_{kind}({bits})" if kind[0] == "f" else f"({wanted}){bits}"
        if re.fullmatch(r"-?(\d+|0x[0-9A-Fa-f]+)", operand):
            return f"({wanted}){int(operand, 0) % 2**64}ull"
        raise ValueError(f"line {self.line}: unknown operand {operand}")

    def write(self, operand: str, kind: str, value: str) -> str:
        place, held = self.register(operand)
        if held == kind or (held[0] != "f" and kind[0] != "f"):
            return f"{place} = ({C_TYPES[kind]})({value});"
        return f"{place} = as_{held}({value});" if held[0] == "f" else f"{place} = bits_{kind}({value});"

    def address(self, operand: str) -> str:
        base, offset = re.fullmatch(r"\[([%$\w]+)(?:\+(-?\d+))?\]", operand).groups()
        return f"{self.read(base, 'u64')} + {int(offset or 0) % 2**64}ull"

    # ---- instructions --------------------------------------------------------------------------------

    def access(self, space: str, kind: str, width: int, memory: str, stores: bool) -> str:
        count = width * int(kind[1:]) // 8
        return f"in_{space}(t, {self.address(memory)}, {count}, {int(stores)}, {self.line})"

    def wait(self, state: str) -> str:
        self.waits += 1
        return f"t->state = {state}; t->at = {self.waits}; t->line = {self.line}; return; case {self.waits}:;"

    def move_memory(self, operation: str, space: str, modifiers: list[str], operands: list[str]) -> str:
        kind = modifiers[-1]
        stores = operation == "st"
        register, memory = reversed(operands) if stores else operands
        if space == "param":
            name = memory.strip("[]")
            value = f"*({C_TYPES[kind]} *)t->arguments[{self.parameters[name]}]"
            return self.write(register, kind, value)
        names = split(register.strip("{}"))
        pointer = f"{C_TYPES[kind]} *p = {self.access(space, kind, len(names), memory, stores)};"
        if stores:
            return pointer + "".join(f" p[{k}] = {self.read(name, kind)};" for k, name in enumerate(names))
        return pointer + "".join(" " + self.write(name, kind, f"p[{k}]") for k, name in enumerate(names))

    def convert(self, modifiers: list[str], operands: list[str]) -> str:
        *how, to, source = modifiers
        result, value = operands[0], self.read(operands[1], source if source != "bf16x2" else "b32")
        if to == "bf16x2":
            upper, lower = (self.read(operand, "f32") for operand in operands[1:])
            return self.write(result, "b32", f"to_bfloat16({upper}) << 16 | to_bfloat16({lower})")
        if how == ["sat"] and to == source == "f32":
            value = f"fminf(fmaxf({value}, 0.0f), 1.0f)"
        elif how and how[0] in TO_INTEGERS and len(how) == 1 and source in ("f32", "f64"):
            value = f"{TO_INTEGERS[how[0]]}{'f' if source == 'f32' else ''}({value})"
            if to != source:
                bits, lowest_of_nan = int(to[1:]), source == "f64" or to[1:] == "64"
                value = f"to_integer({value}, {bits}, {int(to[0] == 's')}, {int(lowest_of_nan)})"
        elif how not in ([], ["rn"]):
            raise NotImplementedError
        return self.write(result, to, value)

    def shuffle(self, operands: list[str]) -> str:
        results, given, wanted, bounds, members = operands
        values = f"t->given = {self.read(given, 'b32')}; t->wanted = {self.read(wanted, 'b32')};"
        values += f" t->bounds = {self.read(bounds, 'b32')}; t->members = {self.read(members, 'b32')};"
        value, _, inside = results.partition("|")
        taken = self.write(value, "b32", "t->given") + (self.write(inside, "pred", "t->taken") if inside else "")
        return f"{values} {self.wait('AT_SHUFFLE')} {taken}"

    def multiply_tiles(self, operands: list[str]) -> str:
        d, a, b, c = (split(operand.strip("{}")) for operand in operands)
        given = [f"t->a[{k}] = {self.read(name, 'b32')};" for k, name in enumerate(a)]
        given += [f"t->b[{k}] = {self.read(name, 'b32')};" for k, name in enumerate(b)]
        given += [f"t->c[{k}] = {self.read(name, 'f32')};" for k, name in enumerate(c)]
        taken = [self.write(name, "f32", f"t->c[{k}]") for k, name in enumerate(d)]
        return " ".join([*given, self.wait("AT_TILES"), *taken])

    def move(self, kind: str, result: str, source: str) -> str:
        bits = int(kind[1:]) if kind != "pred" else 0
        if result.startswith("{"):
            low, high = split(result.strip("{}"))
            half, whole = f"b{bits // 2}", self.read(source, f"b{bits}")
            return f"{self.write(low, half, whole)} {self.write(high, half, f'{whole} >> {bits // 2}')}"
        if source.startswith("{"):
            low, high = (self.read(part, f"b{bits // 2}") for part in split(source.strip("{}")))
            return self.write(result, f"b{bits}", f"({C_TYPES[f'b{bits}']})({high}) << {bits // 2} | {low}")
        if kind == "pred":
            constant = {"0": "0", "-1": "1"}.get(source)
            return self.write(result, "pred", constant or self.read(source, "pred"))
        return self.write(result, kind, self.read(source, kind))

    def compare(self, comparison: str, kind: str, operands: list[str]) -> str:
        a, b = (self.read(operand, kind) for operand in operands[1:])
        comparison = OF_UNSIGNED.get(comparison, comparison)
        unordered = f"({a} != {a} || {b} != {b})"
        if comparison in ("nan", "num"):
            value = unordered if comparison == "nan" else f"!{unordered}"
        elif comparison == "ne" and kind[0] != "f":
            value = f"{a} != {b}"
        elif comparison == "ne":
            value = f"({a} < {b} || {a} > {b})"
        elif comparison in ORDERED:
            value = f"{a} {ORDERED[comparison]} {b}"
        elif comparison == "neu":
            value = f"{a} != {b}"
        else:  # true as well where one is not a number
            value = f"({a} {ORDERED[comparison.removesuffix('u')]} {b} || {unordered})"
        return self.write(operands[0], "pred", value)

    def compute(self, operation: str, modifiers: list[str], operands: list[str]) -> str:
        """What computes a value from values."""
        *how, kind = modifiers
        real = kind[0] == "f"
        f = "f" if kind == "f32" else ""
        shifts = operation in ("shl", "shr")
        kinds = [kind, "u32"] if shifts else [kind, kind, "pred"] if operation == "selp" else [kind] * 4
        values = [self.read(operand, each) for operand, each in zip(operands[1:], kinds, strict=False)]
        a, b, c, d = (values + [None] * 4)[:4]
        result = kind
        known = how in ([], ["rn"])
        if operation in INFIX and known:
            value = f"{a} {INFIX[operation]} {b}"
        elif operation == "add" and how == ["rz"] and kind == "f32":
            value = f"add_toward_zero({a}, {b})"
        elif operation == "mul" and (how == ["lo"] or (real and known)):
            value = f"{a} * {b}"
        elif operation == "mul" and how == ["hi"]:
            wide = f"({'unsigned ' if kind[0] == 'u' else ''}__int128)"
            value = f"{wide}{a} * {b} >> {kind[1:]}"
        elif operation == "mad" and how == ["lo"]:
            value = f"{a} * {b} + {c}"
        elif operation == "mul" and how == ["wide"]:
            result = f"{kind[0]}{2 * int(kind[1:])}"
            value = f"({C_TYPES[result]}){a} * {b}"
        elif operation == "sqrt" and how == ["rn"]:
            value = f"sqrt{f}({a})"
        elif operation == "fma" and how == ["rn"] and kind in ("f32", "f64"):
            value = f"fma{f}({a}, {b}, {c})"
        elif operation == "fma" and how == ["rm"] and kind == "f32":
            value = f"fma_downward({a}, {b}, {c})"
        elif operation == "fma" and how == ["rz"] and kind == "f32":
            value = f"fma_toward_zero({a}, {b}, {c})"
        elif operation == "div" and real and how == ["rn"]:
            value = f"{a} / {b}"
        elif operation == "div" and how in (["approx"], ["approx", "ftz"]) and kind == "f32":
            value = f"div_approx({a}, {b}, {int('ftz' in how)})"
        elif operation in ("div", "rem") and not real and known:  # a processor that divides by -1 may overflow
            by_zero, by_minus_one = ("~0ull", f"-{a}") if operation == "div" else (a, "0")
            value = f"{a} {'/' if operation == 'div' else '%'} {b}"
            if kind[0] == "s":
                value = f"{b} == -1 ? {by_minus_one} : {value}"
            value = f"{b} == 0 ? ({C_TYPES[kind]}){by_zero} : {value}"
        elif operation == "rcp" and how == ["rn"]:
            value = f"1 / {a}"
        elif operation == "rcp" and how == ["approx", "ftz"]:
            value = f"rcp_approx({a}, 1)" if kind == "f32" else f"rcp_approx_double({a})"
        elif operation == "ex2" and how in (["approx"], ["approx", "ftz"]):
            value = f"ex2_approx({a}, {int('ftz' in how)})"
        elif operation in ("min", "max") and real and known:
            value = f"{operation}_{kind}({a}, {b})"
        elif operation in ("min", "max") and known:
            value = f"{a} {'<' if operation == 'min' else '>'} {b} ? {a} : {b}"
        elif operation == "neg" and known:
            value = f"-{a}"
        elif operation == "abs" and known:
            value = f"fabs{f}({a})" if real else f"{a} < 0 ? -{a} : {a}"
        elif operation in ("clz", "popc") and known:
            result, zero = "u32", f"!{a} ? {kind[1:]} : " if operation == "clz" else ""
            value = f"{zero}__builtin_{operation.replace('popc', 'popcount')}{'ll' if kind == 'b64' else ''}({a})"
        elif operation == "brev" and kind == "b32" and known:
            value = f"reverse_bits({a})"
        elif operation == "copysign" and known:
            value = f"copysign{f}({b}, {a})"
        elif operation == "not" and known:
            value = f"!{a}" if kind == "pred" else f"~{a}"
        elif shifts and known:
            beyond = f"{a} < 0 ? -1 : 0" if kind[0] == "s" else "0"
            value = f"{b} >= {kind[1:]} ? ({beyond}) : {a} {'<<' if operation == 'shl' else '>>'} {b}"
        elif operation == "selp" and known:
            value = f"{c} ? {a} : {b}"
        elif operation == "bfi" and known:
            value = f"insert_bits({a}, {b}, {c}, {d})"
        elif operation == "popc" and known:
            value, result = f"__builtin_popcountll({a})", "u32"
        elif operation == "prmt" and known:
            value = f"permute_bytes({a}, {b}, {c})"
        else:
            raise NotImplementedError
        return self.write(operands[0], result, value)

    def instruction(self, text: str) -> str:
        """One instruction without its guard, in C."""
        name, _, rest = re.sub(r"\s+", " ", text).partition(" ")
        operation, *modifiers = name.split(".")
        operands = split(rest)
        if operation == "bra":
            return f"goto {operands[0].replace('$', 'at_')};"
        if operation == "ret":
            return "t->state = DONE; return;"
        if name == "bar.sync" and operands == ["0"]:
            return self.wait("AT_BARRIER")
        if name == "bar.red.or.pred" and operands[1] == "0":
            vote = f"t->vote = {self.read(operands[2], 'pred')};"
            return f"{vote} {self.wait('AT_VOTE')} {self.write(operands[0], 'pred', 't->vote')}"
        if name == "vote.sync.ballot.b32":
            votes = f"t->given = {self.read(operands[1], 'pred')}; t->members = {self.read(operands[2], 'b32')};"
            return f"{votes} {self.wait('AT_BALLOT')} {self.write(operands[0], 'b32', 't->given')}"
        if name == "bar.warp.sync":
            return f"t->members = {self.read(operands[0], 'b32')}; {self.wait('AT_WARP_BARRIER')}"
        if name == "shfl.sync.bfly.b32":
            return self.shuffle(operands)
        if name == "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32":
            return self.multiply_tiles(operands)
        if operation in ("ld", "st"):
            space = modifiers.pop(0) if modifiers[0] in ("param", "global", "shared") else "any"
            return self.move_memory(operation, space, modifiers, operands)
        if operation == "mov":
            return self.move(modifiers[0], *operands)
        if operation == "cvta":  # all spaces are parts of one
            return self.move("u64", *operands)
        if operation == "cvt":
            return self.convert(modifiers, operands)
        if operation == "setp" and len(modifiers) == 2:
            return self.compare(*modifiers, operands)
        return self.compute(operation, modifiers, operands)

    def count(self):
        """How many instructions the last stretch without a branch had."""
        if self.pending:
            self.code.append(f"stand_in_instructions += {self.pending};")
        self.pending = 0

    def add(self, statement: Statement):
        self.line, text = statement
        if text == "{":
            self.scopes.append({})
        elif text == "}":
            self.scopes.pop()
        elif text.startswith(".reg"):
            _, kind, names = text.split(None, 2)
            self.declare(kind.strip("."), names)
        elif text.endswith(":"):
            self.count()
            self.code.append(f"{text.replace('$', 'at_')};")
        elif not text.startswith(".pragma"):
            guard, text = re.fullmatch(r"(?:@(!?%\w+)\s+)?(.*)", text, re.DOTALL).groups()
            try:
                done = self.instruction(text)
            except (NotImplementedError, KeyError):
                raise NotImplementedError(f"line {self.line}: {text}") from None
            self.pending += 1
            if guard or "goto" in done or "return" in done:
                self.count()
            if guard:
                condition = self.read(guard.strip("!"), "pred")
                done = f"if ({'!' if guard[0] == '!' else ''}{condition}) {{ {done} }}"
            self.code.append(f"{{ {done} }}")


def to_c(ptx: str, source: Path) -> str:
    """All kernels of a piece of PTX, each as an exported `kernel`."""
    offsets: dict[str, int] = {}
    size, dynamic, kernels, current = 0, [], [], None
    for statement in statements(ptx):
        text = statement.text
        if current is not None:
            current.add(statement)
            if not current.scopes[1:] and text == "}":
                kernels.append((name, current))
                current = None
        elif match := re.match(r"\.visible\s+\.entry\s+(\w+)\s*\((.*?)\)", text, re.DOTALL):
            name = match.group(1)
            current = Translation(offsets | dict.fromkeys(dynamic, -(-size // 16) * 16))
            declared = re.findall(r"\.param\s+(?:\.align \d+\s+)?\.\w+\s+(\w+)", match.group(2))
            current.parameters = {parameter: k for k, parameter in enumerate(declared)}
        elif match := re.fullmatch(r".*\.shared\s+\.align\s+(\d+)\s+\.b8\s+(\w+)\[(\d*)\]", text):
            alignment, variable, count = match.groups()
            if not count:
                dynamic.append(variable)
                continue
            size = -(-size // int(alignment)) * int(alignment)
            offsets[variable] = size
            size += int(count)
        elif not re.match(r"\.common\s+\.global", text):  # Numba's environments, which no kernel reads
            raise NotImplementedError(f"line {statement.line}: {text}")
    parts = ['#include "threads.h"']
    for name, each in kernels:
        fields, code = "\n".join(each.fields), "\n".join(each.code)
        parts.append(
            f"struct of_{name} {{ {fields} }};\n"
            f"static void run_{name}(thread *t, void *registers) {{\n"
            f"struct of_{name} *r = registers;\nswitch (t->at) {{ case 0:;\n{code}\n}} }}\n"
            f'kernel kernel_{name} = {{ run_{name}, sizeof(struct of_{name}), {-(-size // 16) * 16}, "{source}" }};\n'
        )
    return "\n".join(parts)


def assemble(ptx: str, folder: Path) -> Path:
    """The library made of some PTX, and beside it the PTX, whose lines a fault names, and the C."""
    source = folder / f"{hashlib.sha256(ptx.encode()).hexdigest()[:24]}.ptx"
    library = source.with_suffix(".so")
    if not library.exists():
        source.write_text(ptx)
        source.with_suffix(".c").write_text(to_c(ptx, source))
        compile_c([str(source.with_suffix(".c")), str(folder / DRIVER)], library, "-O1")
    return library


def build_driver(folder: Path) -> Path:
    """The directory for LD_LIBRARY_PATH."""
    compile_c([str(HERE / "driver.c")], folder / DRIVER, "-O2", f"-Wl,-soname,{DRIVER}")
    return folder


def compile_c(sources: list[str], library: Path, *options: str):
    # No contraction and no excess precision: each instruction rounds as PTX says. Signed numbers wrap around.
    exact = ["-march=native", "-ffp-contract=off", "-fwrapv", "-fno-strict-aliasing", "-fno-math-errno"]
    partial = library.with_suffix(f".{hashlib.sha256(str(sources).encode()).hexdigest()[:6]}.partial")
    command = ["cc", "-shared", "-fPIC", "-w", f"-I{HERE}", *exact, *options, *sources, "-o", str(partial)]
    run = subprocess.run([*command, "-lm", "-ldl"], capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(run.stderr[-3000:])
    partial.rename(library)  # another process may be at the same
