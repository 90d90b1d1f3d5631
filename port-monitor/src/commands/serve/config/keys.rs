//! The sections of the configuration and the keys in them. Each key is a flag of the command
//! line, by the name that the flag has within its section, and takes what the flag takes.

use std::{any::TypeId, sync::LazyLock};

use clap::{Arg, ArgAction, Args as _, Command, CommandFactory as _, Parser};

use crate::{
    commands::watch,
    consume::{
        consumers,
        export::{Settings, settings::Urls},
    },
    ports::port_set::PortSet,
};

/// The section of what is watched, and how.
pub(super) const WATCH: &str = "watch";
/// The section of the policy.
pub(super) const POLICY: &str = "policy";

/// The section that has a table for each export, by its name.
pub(super) const EXPORT: &str = "export";

/// The key of a flag that takes a file, and has the name of its section.
pub(super) const FILE: &str = "file";
/// The key of one that takes an address.
const LISTEN: &str = "listen";

/// The section of alerts.
const ALERT: &str = "alert";
/// Its keys that say where they are told.
const ALERT_PLACES: [&str; 2] = ["journal", "command"];

/// Flags of the terminal that mean something to a service too.
const WATCH_TOO: [&str; 2] = ["process-args", "progress"];
/// Flags that are read before the configuration is.
const NOT_WATCH: [&str; 1] = ["bpf-log"];

/// The flags that a configuration stands for.
#[derive(Debug, Parser)]
#[command(
    no_binary_name = true,
    disable_help_flag = true,
    disable_version_flag = true
)]
pub(super) struct Flags {
    #[command(flatten)]
    pub(super) watch: watch::Args,
    /// What the policy denies is told, and nothing is denied: true, the default. With false the
    /// policy is applied and followed, as `port-monitor apply --follow` does
    #[arg(
        long = "policy-observe",
        value_name = "BOOL",
        default_value_t = true,
        action = ArgAction::Set,
        help_heading = "Policy"
    )]
    pub(super) observe: bool,
}

static COMMAND: LazyLock<Command> = LazyLock::new(|| {
    let mut command = Flags::command();
    command.build();
    command
});

/// The keys of an export, as flags that the command line does not have.
#[derive(Debug, Parser)]
#[command(
    no_binary_name = true,
    disable_help_flag = true,
    disable_version_flag = true
)]
pub(super) struct ExportFlags {
    #[command(flatten)]
    pub(super) settings: Settings,
}

static EXPORT_COMMAND: LazyLock<Command> = LazyLock::new(|| {
    let mut command = ExportFlags::command();
    command.build();
    command
});

/// The keys of every table in [`EXPORT`].
pub(super) static EXPORT_KEYS: LazyLock<SectionKeys> =
    LazyLock::new(|| SectionKeys::of(EXPORT, &EXPORT_COMMAND));

/// The flags that ask for consumers.
static CONSUMERS: LazyLock<Command> =
    LazyLock::new(|| consumers::Args::augment_args(Command::new("consumers")));

/// The names of the sections. Each consumer has one, by the first word of its flags: the keys
/// of section `x` are the flag `--x`, as `file` or `listen`, and every flag `--x-KEY`, as `KEY`.
pub(super) static SECTION_NAMES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let mut names = vec![WATCH, POLICY, EXPORT];
    for flag in CONSUMERS.get_arguments().filter_map(Arg::get_long) {
        let name = flag.split('-').next().unwrap_or(flag);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
});

/// The sections, each with its keys, in the order of `--help`.
pub(super) static SECTIONS: LazyLock<Vec<SectionKeys>> = LazyLock::new(|| {
    let names = SECTION_NAMES.iter().filter(|name| **name != EXPORT);
    names.map(|name| SectionKeys::of(name, &COMMAND)).collect()
});

/// A section and its keys.
#[derive(Debug)]
pub(super) struct SectionKeys {
    pub(super) name: &'static str,
    pub(super) keys: Vec<Key>,
    /// Their names.
    pub(super) known: Vec<&'static str>,
}

impl SectionKeys {
    fn of(name: &'static str, command: &'static Command) -> Self {
        let flags = command.get_arguments().filter(|arg| !arg.is_hide_set());
        let keys: Vec<Key> = flags.filter_map(|arg| Key::of(name, arg)).collect();
        Self {
            name,
            known: keys.iter().map(|key| key.name).collect(),
            keys,
        }
    }

    /// The keys that say where events are brought. It has no meaning without any of them.
    pub(super) fn places(&self) -> impl Iterator<Item = &Key> {
        let keys = self.keys.iter();
        let names = match self.name {
            ALERT => ALERT_PLACES,
            _ => [FILE, LISTEN],
        };
        keys.filter(move |key| names.contains(&key.name))
    }

    /// Two consumers can be at one of its places, one after the other.
    pub(super) fn shares_places(&self) -> bool {
        self.name == ALERT
    }

    /// The keys without which it has no meaning.
    pub(super) fn required(&self) -> impl Iterator<Item = &'static str> {
        let keys = self.keys.iter().filter(|key| key.arg.is_required_set());
        keys.map(|key| key.name)
    }

    /// Something that takes events.
    pub(super) fn is_consumer(&self) -> bool {
        self.name != WATCH && self.name != POLICY
    }
}

/// A key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// The flag, without its dashes.
    pub(super) flag: &'static str,
    pub(super) takes: Takes,
    /// It takes a list, too.
    pub(super) takes_list: bool,
    /// Entries of a list become one value of the flag, with commas between them.
    pub(super) joins_list: bool,
    pub(super) arg: &'static Arg,
}

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// `true` is the flag, `false` is none.
    Switch,
    /// `true` or `false`.
    Truth,
    /// A text.
    Text,
    /// The whole path of a file.
    File,
    /// A text, or a number, which is taken as it is written.
    Number,
}

impl Key {
    /// It keeps events back from every consumer, those of a whole connection too.
    pub(super) fn keeps_back(&self) -> bool {
        self.arg.get_help_heading() == Some("Filters") && self.flag != "events"
    }

    fn of(section: &str, arg: &'static Arg) -> Option<Self> {
        let flag = arg.get_long()?;
        let name = if section == WATCH {
            let heading = arg.get_help_heading();
            let is_about_watching = matches!(heading, Some("Filters" | "Kernel"));
            let is_key =
                is_about_watching && !NOT_WATCH.contains(&flag) || WATCH_TOO.contains(&flag);
            is_key.then_some(flag)?
        } else {
            match flag.strip_prefix(section)? {
                "" if Takes::of(arg) == Takes::File => FILE,
                "" => LISTEN,
                rest => rest.strip_prefix('-')?,
            }
        };
        let of = arg.get_value_parser().type_id();
        let joins_list = of == TypeId::of::<PortSet>() || of == TypeId::of::<Urls>();
        Some(Self {
            name,
            flag,
            takes: Takes::of(arg),
            takes_list: joins_list || matches!(arg.get_action(), ArgAction::Append),
            joins_list,
            arg,
        })
    }
}

impl Takes {
    fn of(arg: &Arg) -> Self {
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            return Self::Switch;
        }
        if arg.get_value_parser().type_id() == TypeId::of::<bool>() {
            return Self::Truth;
        }
        let names = arg.get_value_names().unwrap_or_default();
        match names.first().map(|name| &**name) {
            Some("FILE") => Self::File,
            Some("NAME" | "PATH" | "NET" | "ADDR:PORT" | "ARG" | "RATE" | "URL") => Self::Text,
            _ if !arg.get_possible_values().is_empty() => Self::Text,
            _ => Self::Number,
        }
    }
}
