//! `--record`: every event as JSON lines, beside whatever is shown.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
};

use anyhow::Context as _;

use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    consume::{
        Lines, Sink as _,
        consumer::{Consumer, Gaps, Kinds, Needs, Stats},
        lines::json::Json,
        output::{file::Limits, target::Target, writer::write_chunk},
    },
    events::record::{Account, Dropped, Item},
};

/// Bytes that are written at once.
const CHUNK_BYTES: usize = 64 << 10;

/// A recording. Writing it may take long.
pub(in crate::consume) struct Recording {
    target: Target,
    name: String,
    kinds: Kinds,
    json: Json,
    chunk: Lines,
    gaps: Gaps,
    taken: u64,
    failed: u64,
    error: Option<String>,
}

impl Recording {
    /// A recording at `path`, put aside at its limits. That is not where events are shown: in
    /// `shown`, or on standard output.
    pub(in crate::consume) fn open(
        path: &Path,
        limits: Option<Limits>,
        kinds: Kinds,
        shown: Option<&Path>,
    ) -> Result<Self, Failure> {
        let target = Target::file_or_pipe(path, limits)
            .context("--record")
            .or_exit(ExitCode::OutputFailed)?;
        if is_shown_in(&target, shown) {
            return Err(Failure::usage(format_args!(
                "--record: events are shown in {} already: name another file",
                target.name()
            )));
        }
        let name = target.name().to_owned();
        Ok(Self {
            target,
            name,
            kinds,
            json: Json::new(),
            chunk: Lines::with_capacity(CHUNK_BYTES),
            gaps: Gaps::default(),
            taken: 0,
            failed: 0,
            error: None,
        })
    }

    /// What messages call it.
    #[cfg(feature = "top")]
    pub(in crate::consume) fn name_of_file(&self) -> &str {
        &self.name
    }

    /// Writes what is formatted; after an error, counts it.
    fn write(&mut self) {
        if self.chunk.is_empty() {
            return;
        }
        let events = self.chunk.events();
        let mut taken = 0;
        if self.error.is_none() {
            let (written, result) = write_chunk(&mut self.target, self.chunk.as_bytes());
            taken = match result {
                Ok(()) => events,
                Err(error) => {
                    let error = format!("write {}: {error}", self.name);
                    log::warn!("--record: {error}; nothing more is recorded");
                    self.error = Some(error);
                    self.chunk.events_within(written)
                }
            };
        }
        self.taken += taken;
        self.failed += events - taken;
        self.chunk.clear();
    }
}

/// It is the regular file that events are shown in.
fn is_shown_in(target: &Target, shown: Option<&Path>) -> bool {
    let shown = if let Some(path) = shown {
        fs::metadata(path)
    } else {
        let stdout = io::stdout().as_fd().try_clone_to_owned();
        stdout.and_then(|stdout| File::from(stdout).metadata())
    };
    let (Ok(shown), Ok(own)) = (shown, target.metadata()) else {
        return false;
    };
    own.is_file() && (own.dev(), own.ino()) == (shown.dev(), shown.ino())
}

impl Consumer for Recording {
    fn name(&self) -> &'static str {
        "record"
    }

    fn needs(&self) -> Needs {
        Needs {
            kinds: self.kinds,
            allowed: true,
            peers: true,
        }
    }

    fn take(&mut self, item: Item<'_>) {
        self.json.write(&mut self.chunk, item);
        if self.chunk.len() >= CHUNK_BYTES {
            self.write();
        }
    }

    fn tick(&mut self, stats: &Stats) {
        let (json, chunk) = (&mut self.json, &mut self.chunk);
        self.gaps.tell(stats, stats.queue_full, |loss| {
            json.write(chunk, Item::Loss(loss));
            true
        });
    }

    fn reopen(&mut self) {
        self.target.reopen();
    }

    fn account(&mut self) -> Account {
        self.write();
        Account {
            delivered: self.taken + self.failed,
            taken: self.taken,
            hidden: 0,
            dropped: Dropped {
                failed: self.failed,
                ..Dropped::default()
            },
            error: self.error.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, Mode, mkfifoat};

    use crate::consume::consumers::recording::*;
    use crate::consume::lines::sample::{connected, header, summary};

    fn open(path: &Path) -> Recording {
        Recording::open(path, None, Kinds::ALL, None).unwrap()
    }

    /// A recording of two events, and its account.
    fn record(recording: &mut Recording) -> Account {
        recording.take(Item::Header(&header()));
        recording.take(Item::Event(&connected()));
        recording.take(Item::Event(&connected()));
        let account = recording.account();
        recording.take(Item::Summary(&summary()));
        recording.account();
        assert!(account.adds_up());
        account
    }

    #[test]
    fn a_recording_is_what_json_shows_and_its_gaps_are_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.jsonl");
        let mut recording = open(&path);
        let account = record(&mut recording);
        assert_eq!((account.taken, account.error), (2, None));
        let stats = Stats {
            queue_full: 3,
            ..Stats::default()
        };
        recording.tick(&stats);
        recording.tick(&stats);
        recording.account();
        let mut lines = Lines::default();
        let mut json = Json::new();
        for item in [
            Item::Header(&header()),
            Item::Event(&connected()),
            Item::Event(&connected()),
            Item::Summary(&summary()),
        ] {
            json.write(&mut lines, item);
        }
        let text = fs::read_to_string(&path).unwrap();
        let shown = String::from_utf8(lines.as_bytes().to_vec()).unwrap();
        let gap = text.strip_prefix(&shown).unwrap();
        assert_eq!(gap.lines().count(), 1, "{gap}");
        assert!(gap.contains("\"cause\":\"output_slow\"") && gap.contains("\"lost\":3"));
    }

    #[test]
    fn a_recording_that_is_full_is_put_aside_with_all_its_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.jsonl");
        let limits = Limits {
            size: 200 << 10,
            keep: 9,
        };
        let mut recording = Recording::open(&path, Some(limits), Kinds::ALL, None).unwrap();
        for _ in 0..500 {
            recording.take(Item::Event(&connected()));
        }
        assert_eq!(recording.account().taken, 500);
        // What is compressed is waited for.
        drop(recording);
        let mut lines = fs::read_to_string(&path).unwrap().lines().count();
        let old = |number: u32| dir.path().join(format!("run.jsonl.{number}.gz"));
        let numbers = (1..=9).take_while(|number| old(*number).exists());
        for number in numbers.clone() {
            let file = File::open(old(number)).unwrap();
            let text = io::read_to_string(flate2::read::GzDecoder::new(file)).unwrap();
            assert!(text.len() <= 200 << 10 && text.ends_with('\n'));
            lines += text.lines().count();
        }
        assert!(numbers.count() > 1);
        assert_eq!(lines, 500);
    }

    #[test]
    fn a_full_disk_costs_the_recording_and_is_named() {
        let mut recording = open(Path::new("/dev/full"));
        let account = record(&mut recording);
        assert_eq!((account.taken, account.dropped.failed), (0, 2));
        let error = account.error.unwrap();
        assert!(
            error.starts_with("write /dev/full: No space left"),
            "{error}"
        );
    }

    #[test]
    fn a_named_pipe_takes_what_its_reader_reads_until_that_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let mut recording = open(&path);
        let reader = std::thread::spawn({
            let path = path.clone();
            move || io::BufRead::lines(io::BufReader::new(File::open(path).unwrap())).next()
        });
        let account = record(&mut recording);
        assert_eq!(account.taken, 2);
        let first = reader.join().unwrap().unwrap().unwrap();
        assert!(first.contains("\"start\""), "{first}");
        recording.take(Item::Event(&connected()));
        let account = recording.account();
        assert_eq!((account.taken, account.dropped.failed), (2, 1));
        assert!(account.error.unwrap().contains("Broken pipe"));
    }

    #[test]
    fn where_events_are_shown_nothing_is_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        fs::write(&path, "").unwrap();
        let same = dir.path().join(".").join("out");
        let failure = Recording::open(&same, None, Kinds::ALL, Some(&path))
            .err()
            .unwrap();
        assert_eq!(failure.code, ExitCode::Usage);
        // A device takes what both write.
        let null = Path::new("/dev/null");
        assert!(Recording::open(null, None, Kinds::ALL, Some(null)).is_ok());
    }
}
