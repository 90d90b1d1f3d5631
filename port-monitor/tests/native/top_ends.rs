//! `port-monitor top` ends connections that the test has made, on a real terminal.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use crate::{program::PROGRAM, terminal::Terminal};

/// What Ctrl-K is on a terminal.
const CTRL_K: &str = "\x0b";

/// Chooses the client's end of a connection, as the only row.
fn choose(terminal: &mut Terminal, client: SocketAddr) {
    terminal.types(&format!("r/dir:out local-port:{}\r", client.port()));
    terminal.sees("1 row, /dir:out local-port:");
}

/// It carries a byte from one end to the other.
fn goes_on(client: &mut TcpStream, server: &mut TcpStream) -> bool {
    let mut byte = [0];
    server
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    client.write_all(b"x").is_ok() && server.read_exact(&mut byte).is_ok()
}

#[test]
fn top_ends_the_connection_that_is_chosen_and_no_other() {
    let mut terminal = Terminal::new(PROGRAM.as_ref());
    let settings = terminal.settings();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // As sshd tells who has come in, of the first one.
    let mut pairs = [(); 3].map(|()| {
        let client = TcpStream::connect(address).unwrap();
        (client, listener.accept().unwrap().0)
    });
    let clients = [0, 1, 2].map(|at: usize| pairs[at].0.local_addr().unwrap());
    let port = clients[0].port();
    terminal.types(&format!(
        "export SSH_CONNECTION='127.0.0.1 {port} 127.0.0.1 {}'\n",
        address.port()
    ));
    terminal.program(&format!("--pid {} --color never", std::process::id()));
    choose(&mut terminal, clients[0]);
    terminal.types(CTRL_K);
    terminal.sees(&format!("end 127.0.0.1:{port} - {address}? y"));
    terminal.types("y\r");
    terminal.sees("it is the ssh session that this runs in");
    terminal.types("y\r");
    terminal.sees("nothing is ended");
    choose(&mut terminal, clients[1]);
    terminal.types(&format!("{CTRL_K}n\r"));
    terminal.sees("nothing is ended");
    terminal.types(&format!("{CTRL_K}y\r"));
    let can_not = "CONFIG_INET_DIAG_DESTROY";
    let ended = format!("127.0.0.1:{} - {address} is ended", clients[1].port());
    terminal.sees_that("what became of it", |screen| {
        screen.contains(&ended) || screen.contains(can_not)
    });
    let is_ended = !terminal.shows().contains(can_not);
    for (at, (client, server)) in pairs.iter_mut().enumerate() {
        let is_chosen = at == 1;
        assert_eq!(goes_on(client, server), !(is_chosen && is_ended), "{at}");
    }
    if is_ended {
        let error = pairs[1].0.read(&mut [0]).map_err(|error| error.kind());
        // The write before it was told first.
        assert!(
            matches!(error, Ok(0) | Err(ErrorKind::ConnectionAborted)),
            "{error:?}"
        );
        terminal.types("7");
        terminal.sees("ended by Ctrl-K 1 of them");
    }
    terminal.types("q");
    assert_eq!(terminal.assert_clean(&settings), "0.");
}
