//! Standard streams of the command after `--`. A file of its own: the test
//! replaces the streams of its whole process.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::Path,
};

use port_monitor::commands::child::{Child, StdoutTo};
use rustix::{
    io::dup,
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
};

#[tokio::test]
async fn command_reads_our_stdin_and_writes_where_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name| dir.path().join(name);
    let port_monitor = Path::new(env!("CARGO_BIN_EXE_port-monitor"));
    let script = "cat; echo talk >&2".to_owned();
    let command: Vec<OsString> = vec!["sh".into(), "-c".into(), script.into()];
    let cases = [
        (StdoutTo::Stderr, "", "from stdin\ntalk\n"),
        (StdoutTo::Inherit, "from stdin\n", "talk\n"),
    ];
    for (stdout_to, expected_stdout, expected_stderr) in cases {
        fs::write(at("in"), "from stdin\n").unwrap();
        let (stdout, stderr) = (dup(io::stdout()).unwrap(), dup(io::stderr()).unwrap());
        dup2_stdin(File::open(at("in")).unwrap()).unwrap();
        dup2_stdout(File::create(at("out")).unwrap()).unwrap();
        dup2_stderr(File::create(at("err")).unwrap()).unwrap();
        let child = Child::spawn_through(port_monitor, &command, stdout_to);
        let released = child.map(|mut child| (child.release(), child));
        dup2_stdout(stdout).unwrap();
        dup2_stderr(stderr).unwrap();

        let (release, mut child) = released.unwrap();
        release.unwrap();
        assert_eq!(child.wait().await.unwrap(), 0);
        let written = |name| fs::read_to_string(at(name)).unwrap();
        assert_eq!(written("out"), expected_stdout, "{stdout_to:?}");
        assert_eq!(written("err"), expected_stderr, "{stdout_to:?}");
    }
}
