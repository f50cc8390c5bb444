//! A page as a browser has it once it is loaded.

use std::path::Path;
use std::process::{Command, Stdio};

use super::bed::start;

/// The page's DOM.
#[track_caller]
pub(crate) fn dom(page: &Path) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
        .unwrap_or_else(|| {
            panic!("there is no Chromium; type: apt-get install -y chromium, or cargo xtask setup")
        });
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg("--dump-dom")
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null());
    let dom = start(command).finish().ok();
    assert!(dom.contains("</html>"), "{dom}");
    dom
}

/// Undoes the references a serialised DOM uses.
pub(crate) fn unescaped(text: &str) -> String {
    let pairs = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    pairs.into_iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}
