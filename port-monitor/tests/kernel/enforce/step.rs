//! `apply --follow` beside what changes by itself: rules that end, and the names of units.

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Enforced,
    follow::{Follower, is_refused},
    hammer::{Hammer, Ports},
    life::{harmless, policy, rule},
};
use crate::{lab::Lab, report::Verdict};

/// How long the host may take to be looked at twice.
const LOOKS: Duration = Duration::from_millis(2_500);

/// How long until the rule ends, at least and by how long it takes to apply a policy here: what
/// comes before must be done by then.
const LASTS: Duration = Duration::from_secs(15);
const APPLIES: u32 = 10;

/// A rule that ends lets go, and nothing else is told or done about it.
pub(crate) fn rule_that_ends(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let begin = Instant::now();
    let enforced = Enforced::new(lab, &harmless())?;
    let lasts = LASTS.max(begin.elapsed() * APPLIES);
    let mut hammer = Hammer::start(&enforced, &ports)?;
    let end = SystemTime::now() + lasts;
    let since_1970 = end.duration_since(UNIX_EPOCH)?;
    let until = jiff::Timestamp::from_second(since_1970.as_secs().try_into()?)?;
    let text = policy(
        "enforce",
        &format!(
            "{}until = {until}\n",
            rule("denied", ports.denied(), "deny")
        ),
    );
    let follower = Follower::start(&enforced, &text, "--no-confirm")?;
    hammer.expect_held()?;
    let hits = enforced.hits("denied")?;
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    thread::sleep(left + LOOKS);
    hammer.expect_free()?;
    let told = follower.unheard();
    ensure!(
        told.iter().all(|line| line.starts_with("denied: denied ")),
        "of a rule that ended: {told:?}"
    );
    ensure!(enforced.hits("denied")? == hits, "the count has changed");
    Ok(Verdict::pass())
}

/// A link from one unit's name to another, taken away again.
struct Alias {
    link: PathBuf,
    made: Option<PathBuf>,
}

impl Alias {
    fn of(unit: &str, alias: &str) -> Result<Self> {
        let dir = PathBuf::from("/run/systemd/transient");
        let made = (!dir.exists()).then(|| dir.clone());
        fs::create_dir_all(&dir).context("make a directory of unit files")?;
        let link = dir.join(alias);
        symlink(unit, &link).context("link the alias")?;
        Ok(Self { link, made })
    }
}

impl Drop for Alias {
    fn drop(&mut self) {
        // Not there: somebody else has taken it away.
        let _ = fs::remove_file(&self.link);
        if let Some(dir) = &self.made {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// A unit that gets another name, after the policy was applied, is held to rules for that
/// name, as long as it has it.
pub(crate) fn alias(lab: &Lab) -> Result<Verdict> {
    const ALIAS: &str = "port-monitor-test-alias.service";
    let ports = Ports::new()?;
    let enforced = Enforced::new(lab, &harmless())?;
    let cgroup = lab.cgroups.held_unit(&enforced.cgroup);
    let unit = cgroup.rsplit('/').next().unwrap_or_default();
    let text = policy(
        "enforce",
        &format!(
            "{}unit = \"{ALIAS}\"\n",
            rule("of-alias", ports.allowed(), "deny")
        ),
    );
    let follower = Follower::start(&enforced, &text, "--no-confirm")?;
    ensure!(
        !is_refused(&cgroup, ports.allowed())?,
        "the unit has the name already"
    );
    let alias = Alias::of(unit, ALIAS)?;
    follower.hear("looked up again")?;
    ensure!(
        is_refused(&cgroup, ports.allowed())?,
        "the rule for its other name does not hold"
    );
    drop(alias);
    follower.hear("looked up again")?;
    ensure!(
        !is_refused(&cgroup, ports.allowed())?,
        "it is held to a name that it has no more"
    );
    Ok(Verdict::pass())
}
