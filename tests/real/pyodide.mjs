// The package in Pyodide: CPython in WebAssembly, as in a browser's notebook.
//
//     npm install pyodide
//     node pyodide.mjs PACKAGES FOLDER
//
// PACKAGES is a folder with the package in it, FOLDER one to work in. Prints what the Python programs below print, each
// in an interpreter of its own on the same folder, and what they leave there.
import { readdirSync } from "node:fs";
import { loadPyodide } from "pyodide";

const [packages, folder] = process.argv.slice(2);

async function run(title, code) {
    console.log(`== ${title}`);
    const python = await loadPyodide();
    for (const [root, place] of [[packages, "/packages"], [folder, "/work"]]) {
        python.FS.mkdirTree(place);
        python.FS.mount(python.FS.filesystems.NODEFS, { root }, place);
    }
    python.runPython(`
import os, sys, warnings
sys.dont_write_bytecode = True
warnings.simplefilter("error")
sys.path.insert(0, "/packages")
os.chdir("/work")`);
    try {
        python.runPython(code);
    } catch (error) {
        console.log(`raised ${error.message.trim().split("\n").at(-1)}`);
    }
    console.log(`left ${readdirSync(folder).sort().join(" ")}`.trim());
}

const job = (failing) => `
from py_restart import enable_counter
with enable_counter("job.progress") as counter:
    total = counter.save_load_object([], "total.pickle")
    print(counter)
    for i in counter(range(6)):
        print("item", i)
        if i == ${failing}:
            raise KeyError(i)
        total.append(i)
    print("result", total)
`;
await run("an exception", job(3));
await run("a resume", job(-1));

const functions = (last) => `
import json
from pathlib import Path
from py_restart import enable_counter

class Item:  # its print is not known beforehand
    def __init__(self, number):
        self.number = number

state = []
def save_file(path):
    path.write_text(json.dumps(state))
def load_file(path):
    state[:] = json.loads(path.read_text())
def save_folder(path):
    path.mkdir()
    (path / "length").write_text(str(len(state)))
def load_folder(path):
    assert int((path / "length").read_text()) == len(state)

counter = enable_counter("job.progress", each_save=True)
counter.save_load_funcs([save_file, save_folder], [load_file, load_folder], [Path("state.json"), Path("layers")])
for item in counter([Item(number) for number in range(6)]):
    print("item", item.number)
    state.append(item.number)
    if item.number == ${last}:
        break
else:
    print("result", state)
`;
await run("saved at every boundary, left by a break", functions(3));
await run("a resume", functions(-1));

const nested = (failing) => `
from py_restart import enable_counter, multi_count, simple_counter
with multi_count():
    for i in simple_counter("first.progress", range(2)):
        print("first", i)
    for i in simple_counter("outer.progress", range(2)):
        for j in simple_counter("inner.progress", range(3)):
            print("inner", i, j)
            if (i, j) == ${failing}:
                raise KeyError(j)
`;
await run("several loops, one inside the other", nested("(1, 1)"));
await run("a resume", nested("None"));
