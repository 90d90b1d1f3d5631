//! What somebody does at `port-monitor top`, from its start to its end, on a real terminal. The
//! native tests and the guests tell the same story.

#![expect(clippy::unwrap_used, reason = "a story that goes wrong fails the test")]

use std::{
    io::Write as _,
    net::{TcpListener, TcpStream},
    path::Path,
};

use crate::terminal::Terminal;

/// Tells it with connections of this process, by `program top` and the flags `args`.
pub(crate) fn tell(program: &Path, args: &str) {
    let mut terminal = Terminal::new(program);
    let settings = terminal.settings();
    terminal.program(args);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    terminal.sees(&format!("127.0.0.1:{port}"));
    filters(&mut terminal, port);
    sorts(&mut terminal);
    // All about the chosen row.
    terminal.types("j\r");
    terminal.sees("process   ");
    terminal.sees(&format!("port-monitor service {port}"));
    terminal.types("\x1b");
    terminal.sees_that("no details", |screen| !screen.contains("process   "));
    // What the kernel counts.
    server.write_all(&[0; 3_000]).unwrap();
    terminal.types("5");
    terminal.sees("LISTENS AT");
    terminal.types("1p");
    terminal.sees("FROZEN, ");
    drop((client, server));
    terminal.types("p");
    terminal.sees_that("the end", |screen| {
        !screen.contains("FROZEN") && screen.contains("· ")
    });
    terminal.resize(40, 12);
    terminal.sees_that("a small screen", |screen| {
        screen.contains("1 Connections 2 3 ") && screen.contains("rows")
    });
    terminal.resize(80, 24);
    terminal.sees("1 Connections 2 Processes 3 ");
    // The shell has the terminal for a while.
    terminal.types("\x1a");
    terminal.sees("Stopped");
    assert_eq!(terminal.assert_clean(&settings), "148.");
    terminal.types("fg\n");
    terminal.sees("1 Connections");
    terminal.types("7");
    terminal.sees("top           delivered ");
    terminal.types("q");
    assert_eq!(terminal.assert_clean(&settings), "0.");
}

fn filters(terminal: &mut Terminal, port: u16) {
    terminal.types("/state:failed");
    terminal.sees_that("no row", |screen| {
        screen.contains("▏ 0 rows") && !screen.contains(&format!(":{port}"))
    });
    terminal.sees("- the filter /state:failed keeps none. Esc takes it away.");
    terminal.types(&format!("\x15port:{port}\r"));
    terminal.sees("2 rows, /port:");
    terminal.types("c");
    terminal.sees("the terminal was told to copy: ");
    terminal.types("e");
    terminal.sees("0 rows, /port:");
    terminal.types(&format!("r/port:{port}\r"));
    terminal.sees("2 rows, /port:");
}

/// By who opened the connection, one way and the other.
fn sorts(terminal: &mut Terminal) {
    let ends = |first: &'static str, second: &'static str, heading: &'static str| {
        move |screen: &str| {
            let of = |mark: &str| screen.find(&format!("  {mark}  ")).unwrap_or(0);
            screen.contains(heading) && of(first) > 0 && of(first) < of(second)
        }
    };
    // Of 80 columns the first one is `DIR`.
    terminal.types("s");
    terminal.sees_that("who connects first", ends("->", "<-", "DIR↑"));
    terminal.types("S");
    terminal.sees_that("who accepts first", ends("<-", "->", "DIR↓"));
    terminal.types("S");
    terminal.sees("DIR↑");
}
