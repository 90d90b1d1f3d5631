//! Exports by TLS, to servers of Python's: each that is not who it should be is told of in a
//! line of its own, and keeps nobody else waiting.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use tempfile::TempDir;

use crate::{
    http::{free_address, get},
    program::{PATIENCE, Process, wait_for},
    service::Service,
};

/// Where all servers are.
const HERE: &str = "127.0.0.1";

/// Serves as each argument says, `NAME ADDRESS PORT CERTIFICATE AUTHORITY`, and tells how many
/// rows who got. The authority of clients may be missing.
const SERVERS: &str = r"
import gzip, http.server, socket, ssl, sys, threading

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        print(self.server.name, gzip.decompress(body).count(b'\n'), flush=True)
        self.send_response(200)
        self.send_header('Content-Length', '0')
        self.end_headers()
    def log_message(self, *_): pass

class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_): pass

for server in sys.argv[1:]:
    name, address, port, certificate, *authority = server.split(' ')
    if name == 'silent':
        silent = socket.create_server((address, int(port)))
        continue
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if authority:
        context.load_verify_locations(*authority)
        context.verify_mode = ssl.CERT_REQUIRED
    if name == 'old':
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = Server((address, int(port)), Handler)
    server.name = name
    if name != 'plain':
        server.socket = context.wrap_socket(server.socket, True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever).start()
print('ready', flush=True)
";

/// Makes the file `name`.pem with a key and a certificate for `alternative`, which `authority`
/// vouches for, or nobody.
fn certify(dir: &Path, name: &str, alternative: &str, days: &str, authority: Option<&str>) {
    let subject = format!("/CN={name}");
    let (key, request) = (format!("{name}.key"), format!("{name}.csr"));
    let extension = match authority {
        Some(_) => format!("subjectAltName={alternative}"),
        None => "basicConstraints=critical,CA:TRUE".to_owned(),
    };
    openssl(
        dir,
        &[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            &key,
            "-out",
            &request,
            "-subj",
            &subject,
            "-addext",
            &extension,
        ],
    );
    let signed = format!("{name}.crt");
    let mut sign = vec![
        "x509",
        "-req",
        "-in",
        &request,
        "-copy_extensions",
        "copy",
        "-days",
        days,
        "-out",
        &signed,
    ];
    let by = authority.map(|by| (format!("{by}.crt"), format!("{by}.key")));
    match &by {
        Some((certificate, key)) => sign.extend(["-CA", certificate, "-CAkey", key]),
        None => sign.extend(["-signkey", &key]),
    }
    openssl(dir, &sign);
    let parts = [signed, key].map(|part| fs::read_to_string(dir.join(part)).unwrap());
    fs::write(dir.join(format!("{name}.pem")), parts.concat()).unwrap();
}

fn openssl(dir: &Path, args: &[&str]) {
    let output = Command::new("openssl").args(args).current_dir(dir).output();
    let output = output.expect("openssl");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
}

/// The certificates of the test. The one that has expired has done so when this returns.
fn certificates() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    certify(path, "authority", "", "2", None);
    certify(path, "another", "", "2", None);
    let here = "IP:127.0.0.1";
    certify(path, "expired", here, "0", Some("authority"));
    let seconds = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    let made = seconds();
    certify(path, "good", here, "2", Some("authority"));
    certify(
        path,
        "elsewhere",
        "IP:127.0.0.2,DNS:elsewhere",
        "2",
        Some("authority"),
    );
    certify(path, "client", "DNS:client", "2", Some("authority"));
    wait_for("it has expired", || (seconds() > made).then_some(()));
    dir
}

/// An export, the certificate of its receiver, whether that wants one of this host, the keys
/// besides, and what is told of it: nothing where it gets its rows.
type Case = (&'static str, &'static str, bool, &'static str, &'static str);

const CASES: &[Case] = &[
    ("good", "good", false, "", ""),
    ("old", "good", false, "", ""),
    (
        "shown",
        "good",
        true,
        "certificate-file = \"DIR/client.pem\"\n",
        "",
    ),
    (
        "two-files",
        "good",
        true,
        "certificate-file = \"DIR/client.crt\"\nkey-file = \"DIR/client.key\"\n",
        "",
    ),
    (
        "stranger",
        "good",
        true,
        "",
        "it asks for a certificate of this host: name one with `certificate-file`: ",
    ),
    (
        "expired",
        "expired",
        false,
        "",
        "its certificate has expired;",
    ),
    (
        "elsewhere",
        "elsewhere",
        false,
        "",
        "its certificate is for another name;",
    ),
    (
        "untrusted",
        "good",
        false,
        "",
        "no authority that is trusted vouches for its certificate;",
    ),
    ("plain", "good", false, "", "it does not speak TLS there;"),
    ("silent", "good", false, "", " did not answer within 10 s;"),
    (
        "no-file",
        "good",
        true,
        "certificate-file = \"DIR/none\"\n",
        "none: No such file or directory (os error 2);",
    ),
    (
        "no-key",
        "good",
        true,
        "certificate-file = \"DIR/client.crt\"\n",
        "client.crt: no key in PEM in it;",
    ),
    (
        "wrong-key",
        "good",
        true,
        "certificate-file = \"DIR/client.crt\"\nkey-file = \"DIR/good.key\"\n",
        "client.crt: keys may not be consistent: ",
    ),
];

/// The servers of all cases, and what they tell.
fn serve(dir: &Path, ports: &[u16]) -> (Process, mpsc::Receiver<String>) {
    let servers = CASES
        .iter()
        .zip(ports)
        .map(|((name, certificate, wants, ..), port)| {
            let authority = if *wants { " authority.crt" } else { "" };
            format!("{name} {HERE} {port} {certificate}.pem{authority}")
        });
    let mut child: Child = Command::new("python3")
        .args(["-c", SERVERS])
        .args(servers)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, told) = mpsc::channel();
    thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .try_for_each(|line| sender.send(line))
    });
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "ready");
    (Process(child), told)
}

/// Rows that each server got, as soon as `count` of them have as many as there are.
fn await_rows(told: &mpsc::Receiver<String>, rows: u64, mut names: Vec<&str>) {
    let mut counts = BTreeMap::<String, u64>::new();
    while !names.is_empty() {
        let line = told.recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|_| panic!("{names:?} of {counts:?}"));
        let (name, count) = line.split_once(' ').unwrap();
        let all = counts.entry(name.to_owned()).or_default();
        *all += count.parse::<u64>().unwrap();
        assert!(*all <= rows && names.contains(&name), "{line}");
        names.retain(|waited| *waited != name || *all < rows);
    }
}

/// The service of all cases, which tells how they stand.
fn sections(dir: &Path, ports: &[u16], metrics: SocketAddr) -> String {
    let dir = dir.to_str().unwrap();
    let exports = CASES
        .iter()
        .zip(ports)
        .map(|((name, _, _, keys, _), port)| {
            let renewed = *name == "untrusted";
            let authority = if renewed { "renewed" } else { "authority" };
            let keys = keys.replace("DIR", dir);
            format!(
                "[export.{name}]\ntype = \"clickhouse\"\nurl = \"https://{HERE}:{port}\"\n\
             every = \"1s\"\nca-file = \"{dir}/{authority}.crt\"\n{keys}"
            )
        });
    let exports: String = exports.collect();
    format!("[history]\nfile = \"DIR/history.db\"\n[metrics]\nlisten = \"{metrics}\"\n{exports}")
}

/// Waits until an export is told to fail.
fn await_failure(metrics: SocketAddr, export: &str) {
    let failing = format!("port_monitor_export_failing{{export=\"{export}\"}} 1");
    wait_for(export, || {
        let (_, _, body) = get(metrics, "/metrics", "")?;
        body.lines().any(|line| line == failing).then_some(())
    });
}

#[test]
fn who_is_not_vouched_for_gets_no_rows_and_keeps_nobody_waiting() {
    let certificates = certificates();
    let dir = certificates.path();
    let ports: Vec<u16> = CASES.iter().map(|_| free_address().port()).collect();
    let (_servers, told) = serve(dir, &ports);
    fs::copy(dir.join("another.crt"), dir.join("renewed.crt")).unwrap();
    let metrics = free_address();
    let mut service = Service::start(&sections(dir, &ports, metrics));
    service.shell.attempt(20);
    let good = CASES.iter().filter(|(.., told)| told.is_empty());
    await_rows(&told, 20, good.map(|(name, ..)| *name).collect());
    await_failure(metrics, "untrusted");
    // A file that is a new one is read.
    fs::copy(dir.join("authority.crt"), dir.join("renewed.crt")).unwrap();
    await_rows(&told, 20, vec!["untrusted"]);
    await_failure(metrics, "silent");
    let ended = service.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for (name, _, _, _, wrong) in CASES {
        let lines = ended.stderr.lines();
        let of_it = format!(" export {name}: ");
        let mut lines = lines.filter(|line| line.contains(&of_it));
        if !wrong.is_empty() {
            let line = lines.next().expect(name);
            assert!(
                line.contains(wrong) && line.ends_with("; it is tried again"),
                "{line}"
            );
        }
        if *name == "untrusted" {
            assert!(lines.next().unwrap().ends_with(": rows are sent again"));
        }
        let is_sent = *name == "untrusted" || wrong.is_empty();
        let sent = if is_sent { 20 } else { 0 };
        let account = format!(
            "recorded 20 = sent {sent} + waiting {} + expired 0",
            20 - sent
        );
        let rest: Vec<&str> = lines.collect();
        assert_eq!(rest.len(), 1, "{rest:?}");
        assert!(rest[0].ends_with(&account), "{rest:?}");
    }
}
