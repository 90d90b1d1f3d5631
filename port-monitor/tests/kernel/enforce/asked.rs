//! What is attached: what some policy has asked, and nothing before one does.

use anyhow::{Context as _, Result, ensure};
use rustix::net::listen;

use super::{
    Enforced, inbound,
    life::{denying, harmless, policy},
    vector::Outcome,
};
use crate::{
    lab::Lab,
    process::fork,
    report::Verdict,
    socket::{V4, any_port, bind, local, open},
};

const OUTBOUND: [&str; 4] = ["pm_connect4", "pm_connect6", "pm_bind4", "pm_bind6"];

/// A policy about outbound connections costs no packet anything; the first about inbound
/// ones is held to all the same, for listeners that were there before it too.
pub(crate) fn attached_when_asked(lab: &Lab) -> Result<Verdict> {
    let enforced = Enforced::new(lab, &denying(23))?;
    expect_links(&enforced, &OUTBOUND)?;
    let child = fork(|| {
        super::enter(&enforced.cgroup)?;
        let listener = open(V4)?;
        bind(&listener, any_port(V4))?;
        listen(&listener, 8)?;
        let at = local(&listener)?;
        let knock = || inbound::knock(at);
        ensure!(knock()? == Outcome::Through, "denied before anybody did");
        let denied = format!(
            "[[rule]]\nname = \"denied\"\ndirection = \"in\"\nport = {}\naction = \"deny\"\n",
            at.port()
        );
        enforced.apply(&policy("enforce", &denied), &["--no-confirm"])?;
        ensure!(matches!(knock()?, Outcome::Failed(_)), "not denied");
        enforced.apply(&harmless(), &["--no-confirm"])?;
        ensure!(knock()? == Outcome::Through, "denied after the policy");
        enforced.tell("rollback")?;
        ensure!(matches!(knock()?, Outcome::Failed(_)), "not denied again");
        Ok(())
    })?;
    child.join()?;
    let mut links = OUTBOUND.to_vec();
    links.push("pm_ingress");
    if enforced.cgroup.is_empty() {
        links.push("pm_lookup");
    }
    expect_links(&enforced, &links)?;
    enforced.apply(&with_udp_and_listeners(), &["--no-confirm"])?;
    links.extend(["pm_sendmsg4", "pm_sendmsg6", "pm_unlisted"]);
    expect_links(&enforced, &links)?;
    Ok(Verdict::pass())
}

fn with_udp_and_listeners() -> String {
    let rules = "[[rule]]\nname = \"datagram\"\ndirection = \"out\"\nproto = \"udp\"\nport = \
                 9\naction = \"deny\"\n[[rule]]\nname = \"listener\"\ndirection = \
                 \"listen\"\nport = 9\naction = \"deny\"\n";
    policy("enforce", rules)
}

/// These are attached, and no others.
fn expect_links(enforced: &Enforced<'_>, names: &[&str]) -> Result<()> {
    let status = enforced.status()?;
    let links = status["links"].as_array().context("no links")?;
    let mut attached = links
        .iter()
        .filter(|link| link["attached"] == true)
        .filter_map(|link| link["program"].as_str())
        .collect::<Vec<_>>();
    let mut names = names.to_vec();
    attached.sort_unstable();
    names.sort_unstable();
    ensure!(attached == names, "{attached:?}, not {names:?}");
    Ok(())
}
