//! `clickline hubspot login`: installs the app in an account.
//!
//! The browser needs something to come back to: this command's own server, on the address that the job's would have; or, while the job runs
//! and has that address, the job's; what else has it is no way back, and is said. With `--code` nothing listens: the browser ends at an address that does not open, and that address
//! is typed in here.

use super::{Failure, Of, Open};
use crate::http;
use crate::model::time::Ms;
use crate::oauth::{CALLBACK, Callback, Installer, READY, TAKES_LOGINS, routes};
use crate::serve::{Bound, Http, Server};
use anyhow::{Context as _, anyhow};
use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks at whether it is done.
const LOOK: Duration = Duration::from_millis(200);

/// How long the running job may take to say that it takes logins.
const READY_WITHIN: Duration = Duration::from_secs(3);

/// Arguments of `hubspot login`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    of: Of,
    /// For which workspace; not needed where there is only one.
    #[arg(long, value_name = "NAME")]
    workspace: Option<String>,
    /// Open no port: type in the address at which the browser ended. For machines without a browser.
    #[arg(long)]
    code: bool,
    /// How many seconds to wait for the browser.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    wait: u64,
}

/// Connects, and says what the account allows.
///
/// # Errors
/// A configuration without app or workspace; HubSpot's no; nobody came.
pub fn run(args: &Args) -> Result<(), Failure> {
    let Open { config, settings, connections } = args.of.open()?;
    let http = config.http.clone().unwrap_or_default();
    let bound = if args.code { None } else { bind(&http)? };
    let port = bound.as_ref().map_or(http.listen.port(), |bound| bound.address().port());
    let workspaces: BTreeMap<String, Vec<String>> = config.workspaces.iter().map(|of| (of.name.clone(), of.portals.clone())).collect();
    let installer = Installer::new(Arc::clone(&connections), &settings.connections, workspaces, http.address(port, CALLBACK))?;
    let installer = Arc::new(installer);
    let (workspace, portals) = installer.workspace(args.workspace.as_deref()).map_err(Failure::configuration)?;
    if connections.client_id().is_none() {
        return Err(Failure::Configuration(anyhow!("every portal has an access token of its own: there is nothing to log in to")));
    }
    if args.code {
        return by_hand(&installer, workspace);
    }
    let page = format!("{}?workspace={}", http.address(port, "/oauth/install"), encoded(workspace));
    let server = match bound {
        Some(bound) => Some(Server::start(bound, routes(Arc::clone(&installer)))?),
        None => {
            if !takes_logins(http.listen) {
                return Err(Failure::Configuration(anyhow!(
                    "http.listen: {} is taken, and what listens there takes no logins (another program, or a job without HubSpot's \
                     connections, such as one that runs with --no-sink): stop it for the while, set http.listen to a free address, \
                     or use --code",
                    http.listen
                )));
            }
            println!("The running job has {}: the login goes through it.", http.listen);
            None
        }
    };
    println!("Open this address in a browser, and choose account {}:\n\n    {page}\n", portals.join(" or "));
    println!("The app's settings in HubSpot must list the redirect URL {}", installer.redirect_uri());
    let installed = || -> anyhow::Result<BTreeMap<String, Ms>> {
        let all = connections.status()?.into_iter().filter_map(|status| Some((status.portal, status.facts?.installed_at)));
        Ok(all.filter(|(portal, _)| portals.contains(portal)).collect())
    };
    let before = installed()?;
    let until = Instant::now() + Duration::from_secs(args.wait);
    loop {
        if let Some(portal) = installed()?.into_iter().find(|(portal, at)| before.get(portal) != Some(at)).map(|(portal, _)| portal) {
            // The browser gets its answer first.
            drop(server);
            return connected(&connections.status()?, &portal);
        }
        if Instant::now() > until {
            return Err(anyhow!("nobody has let the app in within {} s; the browser's page says why, if somebody tried", args.wait).into());
        }
        std::thread::sleep(LOOK);
    }
}

/// Binds to the job's address; nothing where it is taken.
fn bind(http: &Http) -> Result<Option<Bound>, Failure> {
    match Bound::to(http.listen) {
        Ok(bound) => Ok(Some(bound)),
        Err(error) if error.root_cause().downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::AddrInUse) => {
            Ok(None)
        }
        Err(error) => Err(Failure::Configuration(error)),
    }
}

/// Whether the server at this address is a clickline that takes logins.
fn takes_logins(listen: SocketAddr) -> bool {
    let ip = match listen.ip() {
        // All addresses of this machine.
        ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    let page = format!("http://{}{READY}", SocketAddr::new(ip, listen.port()));
    let asked = async {
        let answer = http::local_client(READY_WITHIN).ok()?.get(page).send().await.ok()?;
        Some(answer.status().is_success() && http::body(answer).await.ok()? == TAKES_LOGINS.as_bytes())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.is_ok_and(|runtime| runtime.block_on(asked).unwrap_or(false))
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Without a server.
fn by_hand(installer: &Installer, workspace: &str) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let begun = runtime.block_on(installer.begin(Some(workspace), None)).map_err(anyhow::Error::from)?;
    println!("Open this address in a browser anywhere, and let the app in:\n\n    {}\n", begun.address);
    println!("The browser ends at an address that begins with {} and does not open. Copy it here:", installer.redirect_uri());
    print!("> ");
    std::io::stdout().flush().context("standard output is closed")?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("nothing can be read")?;
    let row = runtime.block_on(installer.finish(&pasted(line.trim())?, Some(&begun.browser))).map_err(anyhow::Error::from)?;
    println!("Account {} is connected.", row.portal);
    tell(&installer.gated(&row));
    Ok(())
}

/// Reads code and state from the address that was typed in.
fn pasted(text: &str) -> anyhow::Result<Callback> {
    let url = url::Url::parse(text).map_err(|_| anyhow!("that is no address: copy all of it, from `http` to the end"))?;
    let find = |name: &str| url.query_pairs().find(|(found, _)| found == name).map(|(_, value)| value.into_owned());
    Ok(Callback { code: find("code"), state: find("state"), error: find("error") })
}

fn connected(all: &[crate::oauth::Status], portal: &str) -> Result<(), Failure> {
    let status = all.iter().find(|status| status.portal == portal).context("the connection is gone again")?;
    println!("Account {portal} is connected.");
    tell(&status.gated);
    Ok(())
}

fn tell(gated: &[(crate::oauth::Feature, Vec<&'static str>)]) {
    for (feature, missing) in gated {
        println!("  it does not allow to {feature}: the scope {} is missing", missing.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_at_which_a_browser_ended_is_read() {
        let read = pasted("http://localhost:8090/oauth/callback?code=a%2Bb&state=s").expect("reads");
        assert_eq!((read.code.as_deref(), read.state.as_deref(), read.error), (Some("a+b"), Some("s"), None));
        assert_eq!(pasted("http://localhost/?error=access_denied&state=s").expect("reads").error.as_deref(), Some("access_denied"));
        assert!(pasted("a+b").is_err());
    }
}
