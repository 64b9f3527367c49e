"""A program with a QtWebEngine window that a debugger drives; the engine has flags of its own.

The engine writes the address to connect to on standard error. Each line on standard input names a
file into which the page is printed as PDF; a line on standard output says whether it was. The
program ends when standard input does.
"""

import os
import socket
import sys


def main(flags: str) -> None:
    """Show the window, with these flags of Chromium."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = flags
    os.environ["QTWEBENGINE_REMOTE_DEBUGGING"] = f"127.0.0.1:{port}"
    from PySide6.QtCore import QSocketNotifier, QUrl
    from PySide6.QtWebEngineCore import QWebEngineSettings
    from PySide6.QtWebEngineWidgets import QWebEngineView
    from PySide6.QtWidgets import QApplication

    application = QApplication(sys.argv[:1])
    view = QWebEngineView()
    page, settings = view.page(), view.settings()
    settings.setAttribute(QWebEngineSettings.WebAttribute.JavascriptCanAccessClipboard, True)
    settings.setAttribute(QWebEngineSettings.WebAttribute.JavascriptCanPaste, True)
    settings.setAttribute(QWebEngineSettings.WebAttribute.ShowScrollBars, False)

    def printed(path: str, worked: bool) -> None:
        sys.stdout.write(f"{'printed' if worked else 'failed'} {path}\n")
        sys.stdout.flush()

    def read() -> None:
        line = sys.stdin.readline().strip()
        if not line:
            # Exit without shutting the engine down: it reports errors while it does.
            os._exit(0)
        page.printToPdf(line)

    page.pdfPrintingFinished.connect(printed)
    commands = QSocketNotifier(sys.stdin.fileno(), QSocketNotifier.Type.Read)
    commands.activated.connect(read)
    view.resize(1280, 900)
    view.show()
    view.setUrl(QUrl("about:blank"))
    application.exec()


if __name__ == "__main__":
    main(sys.argv[1])
