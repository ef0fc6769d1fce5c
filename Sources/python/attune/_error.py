"""The one exception of the package."""

from ._abi import STATUS


class Error(Exception):
    """A refused or failed call. str(e) is one sentence that names the argument and both values.

    code      "E_SHAPE", ... the name of the status
    status    the negative number behind it
    argument  the tensor or parameter it is about, "" for none
    detail    two integers: expected and actual, bytes needed, or errno
    message   the sentence
    """

    def __init__(self, code, status, argument="", detail=(0, 0), message=""):
        super().__init__(code, status, argument, detail, message)  # all of them, so that it pickles
        self.code, self.status, self.argument = code, status, argument
        self.detail, self.message = detail, message

    def __str__(self):
        return f"{self.code}: {self.message}"


def failure(code, argument, message, detail=(0, 0)):
    """An Error that this package found itself, before the library was asked."""
    return Error(code, STATUS[code], argument, detail, message)
