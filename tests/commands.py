"""The command line as the tests use it."""

from click.testing import CliRunner, Result

from dagf.cli import main


def dagf(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def fine(*words: object) -> str:
    result = dagf(*words)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def refused(*words: object) -> str:
    """The one line on stderr, beside progress bars, with which a command ends with status 2."""
    result = dagf(*words)
    assert result.exit_code == 2, result.output + repr(result.exception)
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.strip() and "%|" not in line]
    assert len(lines) == 1, lines
    assert lines[0].startswith("dagf: ")
    assert "Traceback" not in result.output
    return lines[0]
