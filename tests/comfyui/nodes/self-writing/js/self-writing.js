import { app } from "../../app.js";
app.registerExtension({ name: "self-writing" });
