# Compile options of every target of ours: warnings are errors, sanitizers by
# GOLDFINCH_SANITIZE. Generated code links goldfinch_generated_options instead.

add_library(goldfinch_options INTERFACE)
target_include_directories(goldfinch_options INTERFACE "${PROJECT_SOURCE_DIR}")
target_compile_options(goldfinch_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
  -Wnon-virtual-dtor -Woverloaded-virtual -Werror)

add_library(goldfinch_generated_options INTERFACE)
# Small: hardly any of it runs more than once a message.
target_compile_options(goldfinch_generated_options INTERFACE -w -Os)

if(GOLDFINCH_SANITIZE)
  add_compile_options(-fsanitize=${GOLDFINCH_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${GOLDFINCH_SANITIZE})
endif()

find_package(Threads REQUIRED)
