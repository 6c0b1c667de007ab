"""Tools called as people call them: what they print, what they say on standard error, their exit codes."""

from transformer import command


def caller(main, capsys):
    """Returns a function that runs a tool's `main`: it returns the exit code, what was printed, and what was said."""

    def call(*args):
        try:
            code = command.run(lambda: main([str(arg) for arg in args]))
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def refuser(call):
    """Returns a function that runs a tool on bad input, and returns its one line."""

    def refused(*args):
        code, out, err = call(*args)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return refused
