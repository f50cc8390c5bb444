//! The report, as a browser shows it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::{fs, io::Read as _, net, thread, time};

use plywood_storm::report::render;
use plywood_storm::summary::{show, summarise};
use serde_json::Value;

mod fixture;

/// Where pages are kept to be looked at.
fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Writes a page and says where it is.
fn page(name: &str, html: &str) -> PathBuf {
    let path = place(name);
    fs::write(&path, html).unwrap();
    path
}

fn chromium() -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
        .unwrap_or_else(|| {
            panic!("there is no Chromium; type: apt-get install -y chromium, or cargo xtask setup")
        });
    let mut command = Command::new(program);
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
    ]);
    command
}

/// The page's DOM once it is loaded.
fn dom(page: &Path, more: &[&str]) -> String {
    let profile = tempfile::tempdir().unwrap();
    let mut child = chromium()
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(more)
        .arg("--dump-dom")
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = child.id();
    let (done, waiting) = mpsc::channel::<()>();
    let guard = thread::spawn(move || {
        if waiting.recv_timeout(time::Duration::from_secs(120)) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    });
    let mut text = String::new();
    child.stdout.as_mut().unwrap().read_to_string(&mut text).unwrap();
    let status = child.wait().unwrap();
    drop(done);
    guard.join().unwrap();
    assert!(status.success() && text.contains("</html>"), "chromium: {status}\n{text}");
    text
}

/// Undoes the five references a serialised DOM uses.
fn unescaped(text: &str) -> String {
    let pairs = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&nbsp;", "\u{a0}"),
        ("&amp;", "&"),
    ];
    pairs.into_iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Every cell of the table of figures, as the browser has it: figure, JSON, shown.
fn cells(dom: &str) -> Vec<(String, Value, String)> {
    dom.split("data-figure=\"")
        .skip(1)
        .map(|rest| {
            let (figure, rest) = rest.split_once('"').unwrap();
            let json = rest.split_once("data-json=\"").unwrap().1.split_once('"').unwrap().0;
            let shown = rest.split_once('>').unwrap().1;
            let shown = shown.split("</td>").next().unwrap();
            (figure.to_owned(), serde_json::from_str(&unescaped(json)).unwrap(), unescaped(shown))
        })
        .collect()
}

#[test]
fn browser_figures_are_those_of_the_summary() {
    let lines = fixture::storm();
    let summaries = summarise(&lines).unwrap();
    let dom = dom(&page("storm.html", &render(&lines).unwrap()), &[]);
    let cells = cells(&dom);
    assert_eq!(cells.len(), summaries.len() * show::COLUMNS.len());
    let wanted = summaries.iter().flat_map(|s| show::COLUMNS.map(|column| (s, column)));
    for ((figure, json, shown), (summary, column)) in cells.into_iter().zip(wanted) {
        let all = serde_json::to_value(summary).unwrap();
        assert_eq!(figure, column.json);
        assert_eq!(Some(&json), all.pointer(column.json), "{figure}");
        if column.head != "ARM" {
            assert_eq!(shown, (column.cell)(summary), "{figure}");
        }
    }
    let embedded = dom.split_once("id=\"summary\">").unwrap().1.split_once("</script>").unwrap().0;
    let embedded: Value = serde_json::from_str(embedded).unwrap();
    assert_eq!(embedded, serde_json::to_value(&summaries).unwrap());
    for id in [
        "wall",
        "latency-concurrency-50-100",
        "latency-layers-100-100",
        "operations",
        "health",
        "lock-cas",
        "cores-0",
    ] {
        assert!(dom.contains(&format!("id=\"{id}-t\"")), "no picture {id}");
    }
}

/// A frame as wide as a phone or a screen, and what in it is wider.
fn too_wide(name: &str, html: &str, width: u32) -> Vec<String> {
    let measure = r#"<!doctype html><meta charset="utf-8"><body style="margin:0"><script>
const frame = document.createElement("iframe");
frame.style = "border:0;height:900px;width:WIDTHpx";
frame.srcdoc = PAGE;
frame.onload = () => {
  const page = frame.contentDocument, wide = [];
  const over = page.documentElement.scrollWidth;
  if (over > WIDTH) wide.push("the page: " + over);
  for (const e of page.querySelectorAll("body *")) {
    if (e.closest(".box") || e.closest("svg") && e.tagName !== "svg") continue;
    const box = e.getBoundingClientRect();
    if (box.width > 0 && (box.right > WIDTH + 0.5 || box.left < -0.5)) wide.push(e.tagName + "." + e.className + ": " + box.left + " to " + box.right);
  }
  for (const svg of page.querySelectorAll("svg.chart")) {
    const view = svg.viewBox.baseVal;
    for (const e of svg.querySelectorAll("text, rect, circle, polygon, line")) {
      const box = e.getBBox();
      if (box.x < -1 || box.x + box.width > view.width + 1 || box.y < -1 || box.y + box.height > view.height + 1)
        wide.push("in a chart: " + e.textContent + " " + [box.x, box.y, box.width, box.height]);
    }
  }
  document.body.dataset.charts = page.querySelectorAll("svg.chart").length;
  document.body.dataset.wide = JSON.stringify(wide.slice(0, 20));
};
document.body.append(frame);
</script>"#;
    let quoted = serde_json::to_string(html).unwrap().replace('<', "\\u003c");
    let wrapper = page(name, &measure.replace("WIDTH", &width.to_string()).replace("PAGE", &quoted));
    let dom = dom(&wrapper, &["--virtual-time-budget=5000", "--window-size=1400,1000"]);
    let attribute = |name: &str| {
        let found =
            dom.split_once(&format!("data-{name}=\"")).unwrap_or_else(|| panic!("the page was not measured"));
        unescaped(found.1.split_once('"').unwrap().0)
    };
    assert!(attribute("charts").parse::<u32>().unwrap() >= 8, "{} charts", attribute("charts"));
    serde_json::from_str(&attribute("wide")).unwrap()
}

#[test]
fn browser_nothing_is_wider_than_the_screen() {
    for (name, lines) in [("storm", fixture::storm()), ("hostile", fixture::hostile())] {
        let html = render(&lines).unwrap();
        for width in [390, 1280] {
            let wide = too_wide(&format!("{name}-{width}.html"), &html, width);
            assert_eq!(wide, Vec::<String>::new(), "{name} at {width}");
        }
    }
}

/// Text of the record stays text, and a cut-off storm says so.
#[test]
fn browser_hostile_text_stays_text() {
    let dom =
        dom(&page("hostile.html", &render(&fixture::hostile()).unwrap()), &["--virtual-time-budget=2000"]);
    assert!(!dom.contains("<title>taken"), "a script ran");
    for element in ["<img", "<script>"] {
        assert!(!dom.contains(element), "{element} got through");
    }
    assert!(dom.contains("&lt;script&gt;document.title='taken'&lt;/script&gt;"));
    assert!(dom.contains("class=\"partial\""));
}

/// The page needs nothing from anywhere: every request there is would go to this proxy.
#[test]
fn browser_the_page_asks_for_nothing() {
    let html = render(&fixture::storm()).unwrap();
    for reference in ["http://", "https://", "src=", "url(", "@import", "<link"] {
        assert!(!html.contains(reference), "{reference}");
    }
    let proxy = Proxy::start();
    let through = format!("--proxy-server=http://{}", proxy.address);
    // The proxy is asked if there is anything to ask for.
    let asking = "<!doctype html><html><img src=\"http://asked.invalid/x.png\"></html>";
    dom(&page("asking.html", asking), &[&through]);
    assert!(proxy.asked().iter().any(|request| request.contains("asked.invalid")));
    dom(&page("alone.html", &html), &[&through, "--virtual-time-budget=2000"]);
    assert_eq!(proxy.asked(), Vec::<String>::new());
}

/// A proxy that hangs up on everyone and remembers what was asked.
struct Proxy {
    address: net::SocketAddr,
    asked: mpsc::Receiver<String>,
}

impl Proxy {
    fn start() -> Self {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, asked) = mpsc::channel();
        // Ends with the test's process.
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                stream.set_read_timeout(Some(time::Duration::from_secs(2))).unwrap();
                let mut begin = [0; 512];
                let read = stream.read(&mut begin).unwrap_or(0);
                if tell.send(String::from_utf8_lossy(&begin[..read]).into_owned()).is_err() {
                    return;
                }
            }
        });
        Self { address, asked }
    }

    /// What has been asked since the last time, but for what the browser asks its makers whatever it shows.
    fn asked(&self) -> Vec<String> {
        let own = |request: &String| {
            let host = request.split(['/', ' ', ':']).find(|part| part.contains('.')).unwrap_or_default();
            [".google.com", ".googleapis.com", ".gvt1.com"].iter().any(|domain| host.ends_with(domain))
        };
        self.asked.try_iter().filter(|request| !own(request)).collect()
    }
}
