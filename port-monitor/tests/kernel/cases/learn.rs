//! `policy learn --for`: a policy of what happens meanwhile.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{lab::Lab, report::Verdict, scenarios::places};

/// In the namespace; no service of the registry has it.
const PORT: u16 = 50_123;

/// Between connections: several of them come while the program watches.
const PAUSE: Duration = Duration::from_millis(20);

/// It allows the connections made meanwhile and the listener that was there before,
/// and `check` takes it.
pub(super) fn live(lab: &Lab) -> Result<Verdict> {
    let is_over = AtomicBool::new(false);
    let (ready, is_ready) = mpsc::channel();
    let (output, made) = thread::scope(|scope| -> Result<_> {
        let connecting = scope.spawn(|| connect_until(&is_over, ready));
        is_ready.recv().context("the connecting thread failed")?;
        let learned = Command::new(&lab.program)
            .args(["policy", "learn", "--for", "1s"])
            .output();
        is_over.store(true, Ordering::Relaxed);
        let made = connecting.join().ok().context("a thread panicked")??;
        Ok((learned?, made))
    })?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {error}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let address = places::SECOND_ADDRESS;
    for (direction, peer) in [
        ("in", Some(format!("from = \"{address}\""))),
        ("out", Some(format!("to = \"{address}\""))),
        ("listen", None),
    ] {
        let is_meant = |rule: &&str| {
            rule.contains(&format!("direction = \"{direction}\""))
                && rule.contains(&format!("port = {PORT}\n"))
                && peer.as_ref().is_none_or(|peer| rule.contains(peer))
        };
        let mut rules = text.split("[[rule]]");
        ensure!(
            rules.any(|rule| is_meant(&rule)),
            "no rule for {direction} port {PORT}, peer {peer:?}, in: {text}"
        );
    }
    let path = lab.new_path("toml");
    fs::write(&path, &text)?;
    let check = Command::new(&lab.program)
        .args(["policy", "check", "--policy"])
        .arg(&path)
        .output()?;
    let error = String::from_utf8_lossy(&check.stderr);
    ensure!(check.status.success(), "{error} in: {text}");
    Ok(Verdict::Pass(format!("{made} connections made")))
}

/// Connects to itself in a network namespace of its own; how often.
fn connect_until(is_over: &AtomicBool, ready: mpsc::Sender<()>) -> Result<usize> {
    places::enter_loopback_netns()?;
    places::add_second_address()?;
    let address = SocketAddr::from((places::SECOND_ADDRESS, PORT));
    let listener = TcpListener::bind(address)?;
    ready.send(())?;
    drop(ready);
    let mut made = 0;
    while !is_over.load(Ordering::Relaxed) {
        let client = TcpStream::connect(address)?;
        let (server, _) = listener.accept()?;
        drop(client);
        drop(server);
        made += 1;
        thread::sleep(PAUSE);
    }
    Ok(made)
}
