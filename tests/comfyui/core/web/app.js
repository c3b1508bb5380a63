// Loads every extension that the server lists, as the real front end does, and shows on the page what only the running
// server can say: how many nodes it has, and what it greets a websocket with.
export const app = { registerExtension(extension) { app.extensions.push(extension.name); }, extensions: [] };
window.comfyApp = app;

function show(id, text) { document.getElementById(id).textContent = text; }

const socket = new WebSocket(`ws://${location.host}/ws?clientId=page`);
socket.onmessage = (message) => {
    if (typeof message.data !== "string") return;
    const { type, data } = JSON.parse(message.data);
    if (type === "status" && data.sid !== undefined) show("socket", `connected as ${data.sid}`);
};
socket.onerror = () => show("socket", "no websocket");

// Not at the top level: an extension imports this module, and would wait for it to be done.
async function setup() {
    const info = await (await fetch("./object_info")).json();
    show("nodes", `${Object.keys(info).length} nodes`);
    const paths = await (await fetch("./extensions")).json();
    await Promise.all(paths.map((path) => import("." + path)));
    show("extensions", app.extensions.sort().join(" "));
}
setup();
