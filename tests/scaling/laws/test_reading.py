"""Tables that people have: columns by name, and one line for each way in which a file is no table."""

import numpy as np
import pytest

from transformer.errors import UserError
from transformer.scaling.laws import reading
from transformer.scaling.laws.reading import Columns

TEXT = "name,N,D,loss\na,1e6,2e7,3.5\nb,2e6,4e7,3.25\n\nc,4e6,8e7,3.0\n"


def test_columns_by_name(write):
    table = reading.read(write("\ufeff" + TEXT.replace("\n", "\r\n")), Columns("N", "D"))
    np.testing.assert_array_equal(table.params, [1e6, 2e6, 4e6])
    np.testing.assert_array_equal(table.tokens, [2e7, 4e7, 8e7])
    np.testing.assert_array_equal(table.loss, [3.5, 3.25, 3.0])
    np.testing.assert_array_equal(table.flops, 6 * table.params * table.tokens)
    assert table.names == ("line 2", "line 3", "line 5")
    assert table.convention == "6ND"
    assert table.unique_tokens is None


def test_flops_in_place_of_tokens(write):
    path = write(TEXT.replace("D", "C"))
    table = reading.read(path, Columns("N", flops="C"))
    np.testing.assert_allclose(table.tokens, table.flops / (6 * table.params))
    np.testing.assert_array_equal(table.flops, [2e7, 4e7, 8e7])


def test_flops_beside_tokens(write):
    path = write("N,D,C,U,loss\n1e6,2e7,5e14,1e7,3\n")
    table = reading.read(path, Columns("N", "D", flops="C", unique_tokens="U"))
    assert (table.tokens[0], table.flops[0], table.convention) == (2e7, 5e14, "column C")
    np.testing.assert_array_equal(table.unique_tokens, [1e7])


def test_the_highest_losses_are_dropped(write):
    table = reading.read(write(TEXT), Columns("N", "D"))
    assert reading.drop_highest(table, 1).names == ("line 3", "line 5")
    assert reading.drop_highest(table, 0).digest() == table.digest()
    for count in (3, -1):
        with pytest.raises(UserError, match=f"--drop-highest {count}: the table has 3 rows"):
            reading.drop_highest(table, count)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("N,D,loss\n", "a header and no row"),
        ("n,D,loss\n1,2,3\n", "0 columns 'N' (--params; did you mean n?)"),
        ("N,N,D,loss\n1,1,2,3\n", "2 columns 'N'"),
        ("N,D,losses\n1,2,3\n", "no column for the loss (--loss); its columns are: N, D, losses"),
        ("N,D,loss\n1,2,nan\n", "line 2: loss is nan: it must be positive and finite"),
        ("N,D,loss\n1,2,3\n1,inf,3\n", "line 3: D is inf"),
        ("N,D,loss\n0,2,3\n", "line 2: N is 0"),
        ("N,D,loss\n1,-2,3\n", "line 2: D is -2"),
        ("N,D,loss\n1,2,\n", "line 2: loss is '', which is no number"),
        ("N,D,loss\n1,2\n", "line 2: 2 cells, where the header has 3 names"),
        ("N,D,loss\n1e6,2e7,3,5\n", "line 2: 4 cells, where the header has 3 names; a decimal comma"),
        ("runs of 2024\nN,D,loss\n1e6,2e7,3\n", "line 1 is read as the header: begin it with # if it is none"),
        ("N;D,loss\n1;2,3\n", "can be split by commas and by semicolons alike"),
        ("N;D;loss\n1e6;2e7;3,125\n", "loss is '3,125', which is 3125 or 3.125: write it without a comma"),
        ("N;D;loss\n1e6;2e7;3,25\n2e6;2e7;3.25\n", "write all in one way"),
        ("N,D,loss\n1,2,three\n", "line 2: loss is 'three', which is no number"),
        (b"\xff\xfe\x00", "is no CSV file"),
        ('[{"N": 1e6, "D": 2e7,\n"loss": 3}]\n', "is JSON: give a CSV file"),
    ],
)
def test_what_is_no_table_is_refused(write, text, said):
    with pytest.raises(UserError) as refused:
        reading.read(write(text), Columns("N", "D"))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        reading.read(tmp_path / "none.csv")
