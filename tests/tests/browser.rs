//! The page that a person sees, in a browser: static files, the API and the websocket of a running ComfyUI.

use std::time::Duration;

use cvs_tests::{Browser, available, get};

use crate::running::Runs;
use crate::support::Checkout;

const LOADED: Duration = Duration::from_secs(60);

/// Loads the page and compares what only the server can have told it with what it tells us.
fn shows_what_the_server_says(browser: &Browser, url: &str) {
    let nodes = get(&format!("{url}/object_info")).json().as_object().unwrap().len();
    let count = format!("<p id=\"nodes\">{nodes} nodes</p>");
    let words = [
        count.as_str(),
        "<p id=\"socket\">connected as page</p>",
        "<p id=\"extensions\">core.hello plain</p>",
    ];
    browser.load(&format!("{url}/"), &words, LOADED);
}

#[test]
fn the_page_loads_from_a_checkout() {
    let Some(browser) = available(Browser::find()) else { return };
    let Some(checkout) = Checkout::new(&["plain"]) else { return };
    shows_what_the_server_says(&browser, &checkout.start(&[]).url(""));
}

#[test]
fn the_page_loads_from_a_version() {
    let Some(browser) = available(Browser::find()) else { return };
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &["plain"]);
    let url = runs.cvs(&["run-ui", "v", "--port", "0", "--detach"]).ok().stdout;
    shows_what_the_server_says(&browser, url.trim_end());
    runs.cvs(&["stop", "v"]).ok();
    runs.assert_nothing_left();
}
