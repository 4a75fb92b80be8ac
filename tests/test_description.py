"""Each section of the API's description, to the letter: run, interrupted where it says, run again, compared."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import py_restart

LIMIT = 60  # seconds that a process may take

# What the sections share. A sleep takes no time, but for the one in which the first run is interrupted.
BEGIN = """
import pickle
import sys
import time as clock
from pathlib import Path
from py_restart import enable_counter, multi_count, simple_counter

class time:
    left = int(sys.argv[1])

    def sleep(seconds):
        time.left -= 1
        if time.left == 0:
            print("asleep", file=sys.stderr, flush=True)
            while True:  # a signal just before the system call does not interrupt it
                clock.sleep(0.01)
"""

ONE = """\
tempfile_path = Path("temp1.tmp")

with enable_counter(tempfile_path) as counter:
    for i in counter(range(10)):
        print(i)
        time.sleep(3)
"""

ONE_AGAIN = """\
4
5
6
7
8
9
"""

SIMPLE = """\
tempfile_path = Path("temp2.tmp")

for i in simple_counter(tempfile_path, range(10)):
    print(i)
    time.sleep(3)
"""

SIMPLE_AGAIN = """\
4
5
6
7
8
9
"""

SEVERAL = """\
tempfile_path1 = Path("temp3.tmp")
tempfile_path2 = Path("temp4.tmp")

with multi_count():
    with enable_counter(tempfile_path1) as counter:
        for i in counter(range(10)):
            print("1:",i)
            time.sleep(3)
            
    print("1 is finished")
    for i in simple_counter(tempfile_path2, range(5)):
            print("2:",i)
            time.sleep(3)
"""  # noqa: W293

SEVERAL_AGAIN = """\
1 is finished
2: 2
2: 3
2: 4
"""

NESTED = """\
tempfile_path3 = Path("temp5.tmp")
tempfile_path4 = Path("temp6.tmp")

with enable_counter(tempfile_path3) as outer_counter:
    for i in outer_counter(range(3)):
        print("outer:",i)
        for j in simple_counter(tempfile_path4 ,range(5)):
                print("\\tinner:",j)
                time.sleep(3)
"""

NESTED_AGAIN = """\
outer: 1
	inner: 2
	inner: 3
	inner: 4
outer: 2
	inner: 0
	inner: 1
	inner: 2
	inner: 3
	inner: 4
"""

OBJECT = """\
tempfile_path = Path("temp7.tmp")

# 保存したいオブジェクト
save_object = {"sum":0}

with enable_counter(tempfile_path) as counter:
    # オブジェクトの登録(保存ファイルがある場合の読み込み)
    save_object = counter.save_load_object(save_object, Path("temp_sum.pickle"))
    print(save_object)
    for i in counter(range(10)):
        print("i:",i)
        time.sleep(3)
        
        save_object["sum"] += i
        # 変更を明示する場合，以下のようにする
        #counter.object = save_object
        
        print("sum:",save_object["sum"])
"""  # noqa: W293

OBJECT_AGAIN = """\
{'sum': 6}
i: 4
sum: 10
i: 5
sum: 15
i: 6
sum: 21
i: 7
sum: 28
i: 8
sum: 36
i: 9
sum: 45
"""

EACH = """\
tempfile_path = Path("temp8.tmp")

# 保存したいオブジェクト
save_object = {"sum":0}

counter = enable_counter(tempfile_path, each_save=True, save_span=1)
# オブジェクトの登録(保存ファイルがある場合の読み込み)
save_object = counter.save_load_object(save_object, Path("temp_sum.pickle"))
print(save_object)

for i in counter(range(10)):
    print("i:",i)
    time.sleep(3)

    save_object["sum"] += i
    counter.object = save_object  # 一応明示的に変更

    print("sum:",save_object["sum"])
"""

EACH_AGAIN = """\
{'sum': 6}
i: 4
sum: 10
i: 5
sum: 15
i: 6
sum: 21
i: 7
sum: 28
i: 8
sum: 36
i: 9
sum: 45
"""

FUNCTIONS = """\
import torch
import torch.nn as nn
import numpy as np

linear_model = nn.Linear(5, 10)
temp_array = np.zeros((2,2))
temp_tensor = torch.zeros((3,3))

# pickleでtensorを書き出す用の関数
def save_temp_tensor_as_pickle(save_path):
    with open(save_path, "wb") as f:
        pickle.dump(temp_tensor, f)
    
# 保存関数のリスト
save_funcs = [lambda save_path: torch.save(linear_model.state_dict(), save_path),
              lambda save_path: np.save(save_path, temp_array),
              save_temp_tensor_as_pickle
             ]

# pytorchのモデルを読み込む用の関数
def load_linear_model(load_path):
    global linear_model  # こちらの宣言は必要ない
    linear_model.load_state_dict(torch.load(load_path))
# ndarrayを読み込む用の関数
def load_temp_array(load_path):
    global temp_array  # 書き換えるため，グローバル変数宣言
    temp_array = np.load(load_path)
# pickleでtensorを読み込む用の関数
def load_temp_tensor(load_path):
    global temp_tensor  # 書き換えるため，グローバル変数宣言
    with open(load_path, "rb") as f:
        temp_tensor = pickle.load(f)

# ロード関数のリスト
load_funcs = [load_linear_model,
              load_temp_array,
              load_temp_tensor,
             ]

#　パスのリスト
func_paths = [Path("temp_linear_model.pth"),
              Path("temp_array.npy"),
              Path("temp_tensor.pickle")]

tempfile_path = Path("temp9.tmp")

with enable_counter(tempfile_path) as counter:
    # 保存・ロード関数の登録(保存ファイルがある場合は読み込み)
    counter.save_load_funcs(save_funcs=save_funcs,
                            load_funcs=load_funcs,
                            func_paths=func_paths)
    
    print("load temp_array:", temp_array)
    print("load temp_tensor:", temp_tensor)
    for i in counter(range(10)):
        print("i:",i)
        time.sleep(3)
        
        temp_array += i * np.ones((2,2))
        temp_tensor += i * torch.ones((3,3))
        print("temp_array:", temp_array)
        print("temp_tensr:", temp_tensor)
"""  # noqa: W293

FUNCTIONS_AGAIN = """\
load temp_array: [[6. 6.]
 [6. 6.]]
load temp_tensor: tensor([[6., 6., 6.],
        [6., 6., 6.],
        [6., 6., 6.]])
i: 4
temp_array: [[10. 10.]
 [10. 10.]]
temp_tensr: tensor([[10., 10., 10.],
        [10., 10., 10.],
        [10., 10., 10.]])
i: 5
temp_array: [[15. 15.]
 [15. 15.]]
temp_tensr: tensor([[15., 15., 15.],
        [15., 15., 15.],
        [15., 15., 15.]])
i: 6
temp_array: [[21. 21.]
 [21. 21.]]
temp_tensr: tensor([[21., 21., 21.],
        [21., 21., 21.],
        [21., 21., 21.]])
i: 7
temp_array: [[28. 28.]
 [28. 28.]]
temp_tensr: tensor([[28., 28., 28.],
        [28., 28., 28.],
        [28., 28., 28.]])
i: 8
temp_array: [[36. 36.]
 [36. 36.]]
temp_tensr: tensor([[36., 36., 36.],
        [36., 36., 36.],
        [36., 36., 36.]])
i: 9
temp_array: [[45. 45.]
 [45. 45.]]
temp_tensr: tensor([[45., 45., 45.],
        [45., 45., 45.],
        [45., 45., 45.]])
"""

ERROR = """\
with multi_count():
    with multi_count():
        pass
"""

SECTIONS = [  # the code, the sleep in which it is interrupted, and what the second run prints
    pytest.param(ONE, 5, ONE_AGAIN, id="one loop"),
    pytest.param(SIMPLE, 5, SIMPLE_AGAIN, id="one loop, saved each time"),
    pytest.param(SEVERAL, 13, SEVERAL_AGAIN, id="two loops and more"),
    pytest.param(NESTED, 8, NESTED_AGAIN, id="loops inside loops"),
    pytest.param(OBJECT, 5, OBJECT_AGAIN, id="an object"),
    pytest.param(EACH, 5, EACH_AGAIN, id="an object, saved each time"),
    pytest.param(FUNCTIONS, 5, FUNCTIONS_AGAIN, id="functions", marks=pytest.mark.real),
]


@pytest.fixture
def run(tmp_path):
    """Run code in a process of its own, in the folder `work`; interrupt it in its n-th sleep."""
    folder = tmp_path / "work"
    folder.mkdir()

    def run(code, interrupted_in=0):
        script = tmp_path / "script.py"
        script.write_text(BEGIN + code, encoding="utf-8")
        package = str(Path(py_restart.__file__).parents[1])
        with subprocess.Popen(
            [sys.executable, "-X", "utf8", "-W", "error", str(script), str(interrupted_in)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": package},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        ) as process:
            if interrupted_in:
                assert process.stderr.readline() == "asleep\n", process.stderr.read()
                process.send_signal(signal.SIGINT)
            try:
                output, errors = process.communicate(timeout=LIMIT)
            finally:
                process.kill()
        return process.returncode, output, errors

    run.folder = folder
    return run


@pytest.mark.parametrize("code, interrupted_in, listing", SECTIONS)
def test_the_second_run_prints_what_the_description_shows(run, code, interrupted_in, listing):
    """A real interrupt in a real process; then the listing to the letter, and an empty folder."""
    status, _, errors = run(code, interrupted_in)
    assert status == -signal.SIGINT
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert os.listdir(run.folder)
    assert run(code) == (0, listing, "")
    assert os.listdir(run.folder) == []


def test_a_block_inside_a_block_is_the_error_that_the_description_shows(run):
    """In its words, and as an `Exception`."""
    status, output, errors = run(ERROR)
    assert (status, output) == (1, "")
    assert "MultiCount has already opend. cannot open another MultiCount" in errors.splitlines()[-1]
    assert issubclass(py_restart.RestartError, Exception)
    assert os.listdir(run.folder) == []
