//! The page that a person sees, in a browser: static files, the API and the websocket of a running ComfyUI.

use std::time::Duration;

use cvs_tests::{Browser, ComfyProcess, available};

use crate::support::Checkout;

const LOADED: Duration = Duration::from_secs(60);

/// Loads the page and compares what only the server can have told it with what it tells us.
fn shows_what_the_server_says(browser: &Browser, process: &ComfyProcess) {
    let nodes = process.get("/object_info").json().as_object().unwrap().len();
    let count = format!("<p id=\"nodes\">{nodes} nodes</p>");
    let words = [
        count.as_str(),
        "<p id=\"socket\">connected as page</p>",
        "<p id=\"extensions\">core.hello plain</p>",
    ];
    browser.load(&process.url("/"), &words, LOADED);
}

#[test]
fn the_page_loads_from_a_checkout() {
    let Some(browser) = available(Browser::find()) else { return };
    let Some(checkout) = Checkout::new(&["plain"]) else { return };
    shows_what_the_server_says(&browser, &checkout.start(&[]));
}
