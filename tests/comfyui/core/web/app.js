// Loads every extension that the server lists, as the real front end does.
export const app = { registerExtension(extension) { app.extensions.push(extension.name); }, extensions: [] };
window.comfyApp = app;
const paths = await (await fetch("./extensions")).json();
await Promise.all(paths.map((path) => import("." + path)));
document.getElementById("extensions").textContent = app.extensions.join("\n");
