"""In a real Jupyter kernel: cells are interrupted and run again, kernels are restarted and killed."""

import re

import pytest

LIMIT = 200  # seconds that a cell may take

BEGINNING = """
import sys, time
from py_restart import enable_counter, multi_count, simple_counter

fails_at = waits_at = None

def work(item):
    print("item", item)
    if item == fails_at:
        raise OSError
    time.sleep(100 if item == waits_at else 0.05)
"""
WITH = """
with enable_counter("job.progress") as counter:
    done = counter.save_load_object([], "done.pickle")
    for i in counter(range(30)):
        work(i)
        done.append(i)
    print("sum", sum(done))
"""
WITH_EACH_SAVE = WITH.replace('"job.progress"', '"job.progress", each_save=True')
EACH_SAVE = """
counter = enable_counter("job.progress", each_save=True)
done = counter.save_load_object([], "done.pickle")
for i in counter(range(30)):
    work(i)
    done.append(i)
print("sum", sum(done))
"""
SIMPLE = """
for i in simple_counter("job.progress", range(30)):
    work(i)
print("sum", sum(range(30)))
"""
IN_A_VARIABLE = """
loop = simple_counter("job.progress", range(30))
for i in loop:
    work(i)
print("sum", sum(range(30)))
"""
NOTEBOOK_BAR = """
from tqdm.notebook import tqdm
with enable_counter("job.progress") as counter:
    loop = counter(range(30))
    for i in tqdm(loop, initial=loop.position):
        work(i)
    print("sum", sum(range(30)))
"""
AUTO_BAR = """
from tqdm.auto import tqdm
loop = simple_counter("job.progress", range(30))
bar = tqdm(loop, initial=loop.position)
for i in bar:
    work(i)
print("sum", sum(range(30)))
"""
NESTED = """
with enable_counter("outer.progress") as outer:
    done = outer.save_load_object([], "done.pickle")
    for i in outer(range(3)):
        inner = simple_counter("inner.progress", range(10))
        for j in inner:
            work(10 * i + j)
            done.append(10 * i + j)
    print("sum", sum(done))
"""
CELLS = {
    "with": WITH,
    "with each_save": WITH_EACH_SAVE,
    "each_save": EACH_SAVE,
    "simple_counter": SIMPLE,
    "a loop in a variable": IN_A_VARIABLE,
    "tqdm.notebook": NOTEBOOK_BAR,
    "tqdm.auto": AUTO_BAR,
    "nested": NESTED,
}
# What survives a kill of the kernel: everything but a `with` that saves only when it ends.
SAVED_ALWAYS = {name: cell for name, cell in CELLS.items() if name not in ("with", "tqdm.notebook")}


class Notebook:
    """A kernel and its client."""

    def __init__(self, folder):
        from jupyter_client.manager import KernelManager

        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(folder))
        self.client = None
        self.connect()

    def connect(self):
        """Talk to the kernel, which may be a new one."""
        if self.client is not None:
            self.client.stop_channels()
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(LIMIT)
        self.run(BEGINNING)

    def run(self, code, stop_after=None, stop=None):
        """Run a cell, do something to its kernel after a line; return what it printed and the name of its error."""
        request = self.client.execute(code)
        printed, error = "", None
        while True:
            message = self.client.get_iopub_msg(timeout=LIMIT)
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream" and content["name"] == "stdout":
                printed += content["text"]
            elif (kind, content.get("execution_state")) == ("status", "idle"):
                error = self.reply_to(request).get("ename")
                break
            if stop_after is not None and stop_after in printed:
                stop_after = None
                if stop() == "gone":
                    break
        return printed, error

    def reply_to(self, request):
        """What the kernel says of a cell: IPython prints no error that it cannot format, in a line without a number."""
        while True:
            message = self.client.get_shell_msg(timeout=LIMIT)
            if message["parent_header"].get("msg_id") == request:
                return message["content"]

    def shut_down(self):
        """End the kernel at once."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """One kernel for all tests that leave it alive: nothing needs a restart to work again."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = Notebook(folder)
    yield notebook, folder
    notebook.shut_down()


def items(printed):
    """The numbers of the items that a cell has run."""
    return [int(number) for number in re.findall(r"item (\d+)\n", printed)]


def assert_goes_on(run, before, folder):
    """A cell that was run again has begun where it was stopped, has done all the rest, and has left nothing."""
    printed, error = run
    assert error is None
    assert items(printed)[0] in (before[-1], before[-1] + 1)  # the one after, where the item had just been saved
    assert items(printed) == list(range(items(printed)[0], 30))
    assert printed.endswith(f"sum {sum(range(30))}\n")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", CELLS)
def test_an_interrupted_cell_goes_on_when_it_is_run_again(kernels, name):
    """Twice the stop button, then to the end, in one kernel that still has the old loop, counter and traceback."""
    notebook, folder = kernels
    notebook.run("waits_at = 7")  # or a busy machine would be further, or done, before it is stopped
    first, error = notebook.run(CELLS[name], "item 7\n", notebook.manager.interrupt_kernel)
    assert error == "KeyboardInterrupt"
    notebook.run("waits_at = 12")
    second, error = notebook.run(CELLS[name], "item 12\n", notebook.manager.interrupt_kernel)
    assert error == "KeyboardInterrupt"
    assert items(second)[0] in (items(first)[-1], items(first)[-1] + 1)
    notebook.run("waits_at = None")
    assert_goes_on(notebook.run(CELLS[name]), items(second), folder)


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_that_failed_goes_on_though_its_traceback_keeps_the_old_loop(kernels, name):
    """The kernel keeps the error of a cell (`sys.last_value`), and with it all frames, loops and counters."""
    notebook, folder = kernels
    notebook.run("fails_at = 7")
    first, error = notebook.run(CELLS[name])
    assert error == "OSError"
    assert items(first) == list(range(8))
    assert notebook.run("print(sys.last_value.__traceback__ is not None)") == ("True\n", None)
    notebook.run("fails_at = None")
    assert_goes_on(notebook.run(CELLS[name]), items(first), folder)


@pytest.mark.parametrize("names", [["with", "simple_counter"], ["with each_save", "nested"]])
def test_cells_go_on_after_a_restart_of_the_kernel(tmp_path, names):
    """The restart button: SIGINT, then SIGTERM, then SIGKILL, as far as it takes; a cell was running."""
    notebook = Notebook(tmp_path)
    try:
        for name in names:

            def restart():
                notebook.manager.restart_kernel(now=False)
                return "gone"

            notebook.run("waits_at = 7")
            first, _ = notebook.run(CELLS[name], "item 7\n", restart)
            notebook.connect()
            assert_goes_on(notebook.run(CELLS[name]), items(first), tmp_path)
    finally:
        notebook.shut_down()


def test_cells_go_on_after_a_kill_of_the_kernel(tmp_path):
    """The kernel dies at once, as when memory runs out or Colab takes the machine away: what is saved always, is."""
    notebook = Notebook(tmp_path)
    try:
        for cell in SAVED_ALWAYS.values():

            def kill():
                notebook.manager.restart_kernel(now=True)
                return "gone"

            notebook.run("waits_at = 7")
            first, _ = notebook.run(cell, "item 7\n", kill)
            notebook.connect()
            assert_goes_on(notebook.run(cell), items(first), tmp_path)
    finally:
        notebook.shut_down()


def test_the_notebook_of_the_examples_prints_what_it_keeps(tmp_path, examples):
    """examples/notebook.ipynb, run from its beginning to its end: the outputs that are kept in it are true."""
    import nbformat
    from nbclient import NotebookClient

    kept = nbformat.read(examples / "notebook.ipynb", as_version=4)
    run = nbformat.from_dict(kept)
    for cell in run.cells:
        cell.pop("outputs", None)
    NotebookClient(run, timeout=LIMIT, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [outputs(cell) for cell in run.cells] == [outputs(cell) for cell in kept.cells]
    assert sum(error == "KeyboardInterrupt" for cell in kept.cells for _, error in [outputs(cell)]) >= 5
    assert list(tmp_path.iterdir()) == []


def outputs(cell):
    """What a cell printed, and the name of its error."""
    found = cell.get("outputs", [])
    printed = "".join(output["text"] for output in found if output.get("name") == "stdout")
    return printed, next((output["ename"] for output in found if output["output_type"] == "error"), None)
