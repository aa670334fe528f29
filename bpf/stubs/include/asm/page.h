/* bcc's helpers include this; no program of ours depends on the size of a page. */
