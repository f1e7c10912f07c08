/* embed.S - the demo model's files, byte for byte, in read-only memory, and the table of them
 * (struct hf_file demo_files[], read by server/demo_model.c).
 *
 * Each file starts on a cache line and has a NUL behind it, so that texts can be handed out as C
 * strings. The table is made here because the distance of two symbols is a constant to the
 * assembler but not to C. Paths are relative to the repository root, which is on the include path. */

.macro embed name
    .section .rodata, "a", %progbits
    .balign 64
1:  .incbin "server/demo/\name"
2:  .byte 0
3:  .asciz "\name"
    .section .data.rel.ro, "aw", %progbits
    .quad 3b, 1b, 2b - 1b       /* struct hf_file: name, bytes, size */
.endm

    .section .data.rel.ro, "aw", %progbits
    .balign 64
    .globl demo_files
    .hidden demo_files
    .type demo_files, %object
demo_files:
    embed "model.safetensors"
    embed "config.json"
    embed "generation_config.json"
    embed "tokenizer.json"
    embed "tokenizer_config.json"
    embed "special_tokens_map.json"
demo_files_end:
    .size demo_files, demo_files_end - demo_files

    .section .rodata, "a", %progbits
    .balign 8
    .globl demo_files_bytes
    .hidden demo_files_bytes
    .type demo_files_bytes, %object
    .size demo_files_bytes, 8
demo_files_bytes:
    .quad demo_files_end - demo_files

    .section .note.GNU-stack, "", %progbits
