//! What README says to type, typed: every snippet of "Use" that talks to a server, in order, to a new one.
//!
//! Shell snippets are run by bash with curl, Python's by python3, JavaScript's by node (20.18 or newer, for `EventSource`). Lines that
//! begin with `#> ` or `//> ` are what comes out, in that order, with other lines between. A request that is refused fails its snippet.

use std::time::Duration;

use tokio::process::Command;

use crate::harness::TestServer;

const ADDRESS: &str = "127.0.0.1:8080";

/// Refusals are failures; a subscription is looked at for as long as it takes to say what there is.
const CURL: &str = r#"
set -e -o pipefail
curl() {
  local status=0 limit=20
  case "$*" in *"/changes"*) limit=2 ;; esac
  command curl --fail-with-body --max-time $limit "$@" || status=$?
  echo
  if [ $limit = 2 ] && [ $status = 28 ]; then return 0; fi
  return $status
}
"#;

struct Snippet {
    language: String,
    text: String,
}

fn snippets() -> Vec<Snippet> {
    let readme = include_str!("../../../README.md");
    let start = readme.find("\n## Use\n").expect("README tells of use");
    let section = &readme[start + 1..];
    let section = &section[..section.find("\n## What is promised").expect("and then of promises")];
    let mut snippets = Vec::new();
    let mut parts = section.split("```");
    // Text and snippets take turns.
    while let (Some(_), Some(snippet)) = (parts.next(), parts.next()) {
        let (language, text) = snippet.split_once('\n').unwrap();
        if text.contains(ADDRESS) {
            snippets.push(Snippet { language: language.to_owned(), text: text.to_owned() });
        }
    }
    snippets
}

#[tokio::test(flavor = "multi_thread")]
async fn what_readme_says_to_type_works() {
    let server = TestServer::start_with(|options| options.backup_dir = Some(options.data_dir.join("../backups"))).await;
    let snippets = snippets();
    assert!(snippets.len() >= 8, "{} snippets", snippets.len());
    for Snippet { language, text } in snippets {
        let typed = text.replace(ADDRESS, server.url.trim_start_matches("http://"));
        let mut command = match language.as_str() {
            "sh" => {
                let mut bash = Command::new("bash");
                bash.args(["-c", &format!("{CURL}{typed}")]);
                bash
            }
            "python" => {
                let mut python = Command::new("python3");
                python.args(["-c", &typed]).env("no_proxy", "*");
                python
            }
            "js" => {
                let mut node = Command::new("node");
                node.args(["--experimental-eventsource", "-e", &typed]);
                node
            }
            other => panic!("a snippet in {other} that nobody runs:\n{text}"),
        };
        let running = command.kill_on_drop(true).output();
        let output = tokio::time::timeout(Duration::from_secs(60), running).await.expect("it ends");
        let output = output.unwrap_or_else(|error| panic!("what runs {language} is not here: {error}"));
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}:\n{text}\n{out}\n{err}", output.status);
        assert!(!out.contains("urn:thermocline:problem"), "{text}\n{out}");
        let mut lines = out.lines();
        for expected in text.lines().filter_map(|line| line.strip_prefix("#> ").or(line.strip_prefix("//> "))) {
            assert!(lines.any(|line| line == expected), "{text}\ndoes not say {expected:?} next:\n{out}");
        }
    }
}
