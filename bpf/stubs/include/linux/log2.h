/* bcc's helpers include this for map macros that we do not use. */
