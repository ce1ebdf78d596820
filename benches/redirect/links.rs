//! The link table that all servers answer from, and the configuration nginx does the same work with.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// Host of all links.
pub const DOMAIN: &str = "s.elido.me";
/// How many different links are asked for: enough to leave the processor's caches.
pub const ASKED: usize = 65_536;

/// The slug of link `n`: seven signs of lower case, since nginx's `map` does not tell cases apart.
pub fn slug(n: usize) -> String {
    // A permutation of 36^7 places spreads neighbours over the table.
    let mut left = (n as u64).wrapping_mul(2_654_435_761) % 36_u64.pow(7);
    let mut text = vec![b'0'; 7];
    for place in text.iter_mut().rev() {
        *place = b"0123456789abcdefghijklmnopqrstuvwxyz"[usize::try_from(left % 36).expect("small")];
        left /= 36;
    }
    String::from_utf8(text).expect("ASCII")
}

/// Where link `n` leads.
pub fn destination(n: usize) -> String {
    format!(
        "https://www.acme.example/resources/{}/white-paper-{n}.pdf?utm_source=newsletter&utm_medium=email&utm_campaign=q{}",
        n % 977,
        n % 4 + 1
    )
}

/// The slugs that are asked for, of `links`.
pub fn asked(links: usize) -> Vec<String> {
    let step = (links / ASKED).max(1);
    (0..links).step_by(step).take(ASKED).map(slug).collect()
}

/// Writes the links as JSON lines.
pub fn write(path: &Path, links: usize) -> io::Result<()> {
    let mut out = BufWriter::new(std::fs::File::create(path)?);
    for n in 0..links {
        writeln!(
            out,
            r#"{{"domain":"{DOMAIN}","slug":"{}","workspace":"acme","destination":"{}","title":"White paper {n}","tags":["sales-collateral","t{}"]}}"#,
            slug(n),
            destination(n),
            n % 200
        )?;
    }
    out.flush()
}

/// How much of a redirect server's work nginx does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nginx {
    /// One constant `return 302`, no log: the least a web server can do.
    Constant,
    /// A `map` of all links and a JSON access log with a buffer of 64 KiB: the same work.
    MapAndLog,
}

/// Writes nginx's files into `folder`; the path of its configuration.
pub fn write_nginx(folder: &Path, kind: Nginx, port: u16, links: usize) -> io::Result<PathBuf> {
    let mut conf = format!(
        "worker_processes 1;\nmaster_process off;\ndaemon off;\npid {0}/nginx.pid;\nerror_log {0}/error.log warn;\nworker_rlimit_nofile 4096;\n\
         events {{ worker_connections 2048; }}\nhttp {{\n  keepalive_requests 1000000000;\n  keepalive_timeout 75s;\n  tcp_nodelay on;\n",
        folder.display()
    );
    for temporary in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(conf, "  {temporary}_temp_path {}/{temporary};", folder.display());
    }
    match kind {
        Nginx::Constant => {
            let _ = write!(
                conf,
                "  access_log off;\n  server {{ listen 127.0.0.1:{port}; location / {{ return 302 {}; }} }}\n}}\n",
                destination(0)
            );
        }
        Nginx::MapAndLog => {
            let map = folder.join("links.map");
            let mut out = BufWriter::new(std::fs::File::create(&map)?);
            for n in 0..links {
                writeln!(out, "/{} {};", slug(n), destination(n))?;
            }
            out.flush()?;
            let _ = write!(
                conf,
                "  map_hash_max_size {};\n  map_hash_bucket_size 256;\n  map $uri $destination {{ include {}; }}\n  \
                 log_format click escape=json '{{\"id\":\"$request_id\",\"ts\":$msec,\"host\":\"$host\",\"link\":\"$uri\",\"destination\":\"$destination\",\
                 \"contact_id\":\"$arg_eid\",\"fbclid\":\"$arg_fbclid\",\"gclid\":\"$arg_gclid\",\"utm\":{{\"source\":\"$arg_utm_source\",\
                 \"medium\":\"$arg_utm_medium\",\"campaign\":\"$arg_utm_campaign\",\"term\":\"$arg_utm_term\",\"content\":\"$arg_utm_content\"}},\
                 \"referrer\":\"$http_referer\",\"user_agent\":\"$http_user_agent\"}}';\n  access_log {}/access.log click buffer=64k flush=5s;\n  \
                 server {{ listen 127.0.0.1:{port}; location / {{ if ($destination = '') {{ return 404; }} return 302 $destination?$args; }} }}\n}}\n",
                links * 2,
                map.display(),
                folder.display()
            );
        }
    }
    let path = folder.join("nginx.conf");
    std::fs::write(&path, conf)?;
    Ok(path)
}
